package apiservertest_test

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/skiff-k8s/skiff/test/apiserver/apiservertest"
)

func errorf(format string, args ...any) error { return fmt.Errorf(format, args...) }

func quantity(value string) resource.Quantity { return resource.MustParse(value) }

// eventually retries check until it returns nil, for at most ten seconds.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("after ten seconds: %v", err)
}

// listening returns the TCP addresses on which the server listens.
func listening(t *testing.T, srv *apiservertest.Server) []string {
	t.Helper()
	own := map[string]bool{}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", srv.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if link, err := os.Readlink(fd); err == nil {
			own[strings.TrimSuffix(strings.TrimPrefix(link, "socket:["), "]")] = true
		}
	}
	table, err := os.Open(fmt.Sprintf("/proc/%d/net/tcp", srv.PID()))
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	var all []string
	const listen = "0A"
	for lines := bufio.NewScanner(table); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 10 || f[3] != listen || !own[f[9]] {
			continue
		}
		ip, port, _ := strings.Cut(f[1], ":")
		b, err := hex.DecodeString(ip)
		if err != nil {
			t.Fatal(err)
		}
		p, err := strconv.ParseUint(port, 16, 16)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, net.JoinHostPort(net.IPv4(b[3], b[2], b[1], b[0]).String(), strconv.FormatUint(p, 10)))
	}
	return all
}
