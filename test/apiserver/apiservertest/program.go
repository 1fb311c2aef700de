package apiservertest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Version is what the program reports; the same flags build every program of
// the release.
const (
	Version = "v1.37.2+skiff"
	ldflags = "-X k8s.io/component-base/version.gitVersion=" + Version +
		" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37" +
		" -X k8s.io/client-go/pkg/version.gitVersion=" + Version
)

// BinaryEnv names a built test/apiserver with the release's version in it;
// without it one is built.
const BinaryEnv = "SKIFF_TEST_APISERVER"

// program is test/apiserver's path.
var program = sync.OnceValues(func() (string, error) {
	if path := os.Getenv(BinaryEnv); path != "" {
		return path, nil
	}
	return Build("apiserver")
})

// Build builds a command of ./test, if it is not up to date, and returns its
// path.
func Build(name string) (string, error) {
	_, file, _, _ := runtime.Caller(0)
	root := filepath.Join(filepath.Dir(file), "..", "..", "..")
	output := filepath.Join(root, "_output", "test")
	if err := os.MkdirAll(output, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(output, name+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	path := filepath.Join(output, name)
	build := exec.Command("go", "build", "-ldflags", ldflags, "-o", path, "./test/"+name)
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build test/%s: %w\n%s", name, err, out)
	}
	return path, nil
}
