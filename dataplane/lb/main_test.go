package lb

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
)

// clientEnv makes this program a client outside of the tests' cgroup: its
// value is the network, the address is the one argument.
const clientEnv = "SKIFF_LB_TEST_CLIENT"

func TestMain(m *testing.M) {
	if network := os.Getenv(clientEnv); network != "" {
		answer, _, err := call(network, os.Args[1])
		fmt.Print(answer)
		switch {
		case refused(err):
			os.Exit(int(unix.ECONNREFUSED))
		case err != nil:
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	root, err := CgroupRoot()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(sandbox.Main(m, root))
}

// callUntranslated is call with a socket that no program sees, in the calling
// thread's network namespace.
func callUntranslated(network, addr string) (string, error) {
	dir, err := os.Open(filepath.Dir(sandbox.Cgroup()))
	if err != nil {
		return "", err
	}
	defer dir.Close()
	cmd := exec.Command("/proc/self/exe", addr)
	cmd.Env = append(os.Environ(), clientEnv+"="+network)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == int(unix.ECONNREFUSED) {
		return "", unix.ECONNREFUSED
	}
	return string(out), err
}
