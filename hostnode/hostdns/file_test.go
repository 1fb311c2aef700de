package hostdns

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// envLoop makes the test program write lines and take them back until it is
// killed; its value is the directory that plays /etc.
const envLoop = "HOSTDNS_TEST_LOOP"

func TestMain(m *testing.M) {
	if dir := os.Getenv(envLoop); dir != "" {
		fmt.Println("looping")
		for {
			if err := errors.Join(put(dir), Remove(Files{EtcDir: dir}, "dev")); err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
		}
	}
	os.Exit(m.Run())
}

func config(dir string) Config {
	return Config{
		Files: Files{EtcDir: dir, Bus: filepath.Join(dir, "no-bus")}, Cluster: "dev", Domain: "cluster.local", Device: "lo",
		Server: server, Upstreams: []string{"198.51.100.1"}, Forwards: true,
	}
}

func put(dir string) error { return Ensure(background(), config(dir)) }

// etc is a directory that plays /etc.
func etc(t *testing.T, conf string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "resolv.conf"), []byte(conf), 0o640); err != nil {
		t.Fatal(err)
	}
	return dir
}

func expect(t *testing.T, dir, want string) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(dir, "resolv.conf"))
	if err != nil || string(got) != want {
		t.Errorf("resolv.conf is %q, %v; want %q", got, err, want)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("in its directory: %v, %v", entries, err)
	}
}

func TestEnsureAndRemove(t *testing.T) {
	dir := etc(t, usual)
	path := filepath.Join(dir, "resolv.conf")
	// SELinux's label is an attribute too; this kind needs no security module.
	labelled := unix.Setxattr(path, "user.kind", []byte("net_conf_t"), 0)
	if labelled != nil && !errors.Is(labelled, unix.ENOTSUP) { // tmpfs has none before Linux 6.6
		t.Fatal(labelled)
	}
	if err := put(dir); err != nil {
		t.Fatal(err)
	}
	expect(t, dir, string(with([]byte(usual), "dev", server, false)))
	if !Has(Files{EtcDir: dir}, "dev") || Has(Files{EtcDir: dir}, "other") {
		t.Error("Has is wrong about whose lines these are")
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if before.Mode().Perm() != 0o640 {
		t.Errorf("mode is %v", before.Mode())
	}
	if err := put(dir); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) || !before.ModTime().Equal(after.ModTime()) {
		t.Errorf("the second Ensure wrote: %v", err)
	}
	// DHCP has been here.
	moved := strings.ReplaceAll(usual, "198.51.100.2", "198.51.100.3")
	if err := os.WriteFile(path, with([]byte(moved), "dev", server, false), 0o640); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Remove(Files{EtcDir: dir}, "dev"); err != nil {
			t.Fatal(err)
		}
		expect(t, dir, moved)
	}
	if labelled != nil {
		return
	}
	value := make([]byte, 64)
	if n, err := unix.Getxattr(path, "user.kind", value); err != nil || string(value[:n]) != "net_conf_t" {
		t.Errorf("attribute: %q, %v", value[:max(n, 0)], err)
	}
}

func TestNoFileBefore(t *testing.T) {
	dir := t.TempDir()
	if err := Remove(Files{EtcDir: dir}, "dev"); err != nil {
		t.Fatal(err)
	}
	if err := put(dir); err != nil {
		t.Fatal(err)
	}
	if err := put(dir); err != nil {
		t.Fatal(err)
	}
	if conf, err := os.ReadFile(filepath.Join(dir, "resolv.conf")); err != nil || len(nameservers(conf)) != 1 {
		t.Errorf("%q, %v", conf, err)
	}
	if err := Remove(Files{EtcDir: dir}, "dev"); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestCheckWritesNothing(t *testing.T) {
	dir := etc(t, usual)
	if err := Check(background(), config(dir)); err != nil {
		t.Fatal(err)
	}
	expect(t, dir, usual)
	// A link is refused, by its target, and stays one.
	path := filepath.Join(dir, "resolv.conf")
	if err := errors.Join(os.Rename(path, filepath.Join(dir, "resolvconf.run")), os.Symlink("resolvconf.run", path)); err != nil {
		t.Fatal(err)
	}
	for _, try := range []func() error{func() error { return Check(background(), config(dir)) }, func() error { return put(dir) }} {
		if err := try(); err == nil || !strings.Contains(err.Error(), "resolvconf writes") {
			t.Errorf("a link: %v", err)
		}
	}
	// Lines that were written before it became one are found behind it.
	if err := os.WriteFile(path, with([]byte(usual), "dev", server, false), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Remove(Files{EtcDir: dir}, "dev"); err != nil {
		t.Fatal(err)
	}
	if target, err := os.Readlink(path); err != nil || target != "resolvconf.run" {
		t.Errorf("link to %q, %v", target, err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != usual {
		t.Errorf("behind the link: %q, %v", got, err)
	}
}

// mounted runs f on a thread with mounts of its own, in which file is a mount.
func mounted(t *testing.T, file string, flags uintptr, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	source := filepath.Join(t.TempDir(), "file")
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(source, content, 0o644); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends
		err := errors.Join(
			unix.Unshare(unix.CLONE_NEWNS|unix.CLONE_FS),
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount(source, file, "", unix.MS_BIND, ""))
		if err == nil && flags != 0 {
			err = unix.Mount("", file, "", unix.MS_BIND|unix.MS_REMOUNT|flags, "")
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestAMountedFile(t *testing.T) {
	for name, conf := range map[string]string{"with a last newline": usual, "without": strings.TrimSpace(usual), "empty": ""} {
		t.Run(name, func(t *testing.T) {
			dir := etc(t, conf)
			mounted(t, filepath.Join(dir, "resolv.conf"), 0, func() {
				if err := put(dir); err != nil {
					t.Error(err)
				}
				expect(t, dir, string(with([]byte(conf), "dev", server, false)))
				if err := Remove(Files{EtcDir: dir}, "dev"); err != nil {
					t.Error(err)
				}
				expect(t, dir, conf)
			})
		})
	}
}

func TestAFileThatCannotBeWrittenSaysWhatToRun(t *testing.T) {
	dir := etc(t, usual)
	mounted(t, filepath.Join(dir, "resolv.conf"), unix.MS_RDONLY, func() {
		// The directory can be written, so that only writing shows.
		err := put(dir)
		var mend interface{ Mend() string }
		if !errors.As(err, &mend) || !strings.Contains(mend.Mend(), "nameserver 10.96.0.10") || !errors.Is(err, unix.EROFS) {
			t.Errorf("got %v", err)
		}
		expect(t, dir, usual)
	})
	mounted(t, filepath.Join(dir, "resolv.conf"), 0, func() {
		if err := errors.Join(unix.Mount(dir, dir, "", unix.MS_BIND, ""), unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")); err != nil {
			t.Error(err)
		}
		cfg := config(dir)
		cfg.Server = netip.Addr{} // nobody knows it before there is a cluster
		err := Check(background(), cfg)
		var mend interface{ Mend() string }
		if !errors.As(err, &mend) || !strings.Contains(mend.Mend(), "kubectl -n kube-system get service kube-dns") {
			t.Errorf("a read-only /etc: %v", err)
		}
	})
}

// TestKilledAtAnyStep kills a program that writes and takes back all the time,
// and takes back what it left.
func TestKilledAtAnyStep(t *testing.T) {
	kill := func(t *testing.T, dir, conf string) {
		left := map[string]int{}
		for range 60 {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), envLoop+"="+dir)
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Error(err)
				return
			}
			if err := cmd.Start(); err != nil {
				t.Error(err)
				return
			}
			if _, err := out.Read(make([]byte, 64)); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond) // chance is the point
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			now, err := os.ReadFile(filepath.Join(dir, "resolv.conf"))
			if err != nil {
				t.Error(err)
			}
			switch {
			case string(now) == conf:
				left["the old file"]++
			case bytes.HasPrefix(now, []byte(beginMark)):
				left["our lines"]++
			default:
				left["a padded file"]++
			}
			if _, err := os.Stat(aside(filepath.Join(dir, "resolv.conf"))); err == nil {
				left["a file aside"]++
			}
			if err := Remove(Files{EtcDir: dir}, "dev"); err != nil {
				t.Error(err)
			}
			expect(t, dir, conf)
		}
		t.Logf("left: %v", left)
		if left["our lines"] == 0 {
			t.Error("never killed in between")
		}
	}
	t.Run("renamed over", func(t *testing.T) { kill(t, etc(t, usual), usual) })
	t.Run("overwritten", func(t *testing.T) {
		dir := etc(t, usual)
		mounted(t, filepath.Join(dir, "resolv.conf"), 0, func() { kill(t, dir, usual) })
	})
}
