package main_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// dist is a packed program and a place to unpack it.
type dist struct {
	*testing.T
	file, versions string
}

// machine is the content of the largest file.
func machine() []byte {
	content := make([]byte, 4<<20)
	rand.Read(content)
	return content
}

// pack builds the program, with what answers as `skiff` in it.
func pack(t *testing.T, content []byte) dist {
	t.Helper()
	dir := t.TempDir()
	launcher := filepath.Join(dir, "skiff-dist")
	if out, err := exec.Command("go", "build", "-o", launcher, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	bin := filepath.Join(dir, "bin")
	for name, text := range map[string][]byte{
		"skiff":                       []byte("#!/bin/sh\necho \"$0 $*\"\nexit ${CODE:-0}\n"),
		"libexec/skiff/skiff-machine": content,
		"libexec/skiff/skiff-init":    []byte("init"),
	} {
		path := filepath.Join(bin, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	d := dist{t, filepath.Join(dir, "skiff"), filepath.Join(dir, "state", "versions")}
	if out, err := exec.Command(launcher, d.file, bin, "v1").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return d
}

func (d dist) command(args ...string) *exec.Cmd {
	cmd := exec.Command(d.file, args...)
	cmd.Env = append(os.Environ(), "SKIFF_VERSIONS_DIR="+d.versions)
	return cmd
}

// start runs it and returns the directory that it ran from.
func (d dist) start(args ...string) string {
	d.Helper()
	out, err := d.command(args...).CombinedOutput()
	if err != nil {
		d.Fatalf("%v\n%s", err, out)
	}
	path, rest, _ := strings.Cut(strings.TrimSuffix(string(out), "\n"), " ")
	if rest != strings.Join(args, " ") || filepath.Base(path) != "skiff" {
		d.Fatalf("ran %q", out)
	}
	return filepath.Dir(path)
}

// state is what is unpacked: names, modes, inodes.
func (d dist) state() string {
	d.Helper()
	var all strings.Builder
	err := filepath.Walk(d.versions, func(path string, info os.FileInfo, err error) error {
		if err == nil {
			fmt.Fprintln(&all, strings.TrimPrefix(path, d.versions), info.Mode(), info.Size(), info.Sys().(*syscall.Stat_t).Ino)
		}
		return err
	})
	if err != nil {
		d.Fatal(err)
	}
	return all.String()
}

func TestItUnpacksOnceAndRunsFromThere(t *testing.T) {
	content := machine()
	d := pack(t, content)
	dir := d.start("create", "cluster")
	if filepath.Dir(dir) != d.versions || !strings.HasPrefix(filepath.Base(dir), "v1-") {
		t.Errorf("ran from %s", dir)
	}
	first := d.state()
	if again := d.start("get", "nodes"); again != dir || d.state() != first {
		t.Errorf("second start in %s:\n%s\nfirst:\n%s", again, d.state(), first)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "libexec/skiff/skiff-machine")); err != nil || !bytes.Equal(got, content) {
		t.Errorf("unpacked %d bytes, %v", len(got), err)
	}
	cmd := d.command()
	cmd.Env = append(cmd.Env, "CODE=7")
	if err := cmd.Run(); cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("exit code: %v", err)
	}
}

func TestBuildsOfOneVersionDoNotMeet(t *testing.T) {
	if a, b := pack(t, []byte("a")).start(), pack(t, []byte("b")).start(); filepath.Base(a) == filepath.Base(b) {
		t.Errorf("both are called %s", filepath.Base(a))
	}
}

func TestFirstStartsAtOnce(t *testing.T) {
	d := pack(t, machine())
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if out, err := d.command("x").CombinedOutput(); err != nil || !strings.HasSuffix(string(out), "/skiff x\n") {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	all.Wait()
	if entries, err := os.ReadDir(d.versions); err != nil || len(entries) != 2 || entries[0].Name() != ".lock" {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestWhatIsDamagedIsMendedAndTheRestStays(t *testing.T) {
	content := machine()
	d := pack(t, content)
	dir := d.start()
	damaged := filepath.Join(dir, "libexec/skiff/skiff-machine")
	sound := filepath.Join(dir, "libexec/skiff/skiff-init")
	inode := func() uint64 {
		info, err := os.Stat(sound)
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Ino
	}
	before := inode()
	for name, damage := range map[string]func() error{
		"missing":                  func() error { return os.Remove(damaged) },
		"cut short":                func() error { return os.Truncate(damaged, 100) },
		"written to":               func() error { return os.WriteFile(damaged, machine(), 0o755) },
		"not executable":           func() error { return os.Chmod(damaged, 0o644) },
		"a directory":              func() error { return os.Rename(t.TempDir(), damaged) },
		"a link":                   func() error { return os.Symlink("/bin/true", damaged) },
		"a start killed before":    func() error { return os.MkdirAll(filepath.Join(d.versions, ".unpack", "libexec"), 0o755) },
		"a mend killed before":     func() error { return os.WriteFile(damaged+".new", nil, 0o600) },
		"gone with its directory":  func() error { return os.RemoveAll(filepath.Join(dir, "libexec")) },
		"gone with all the others": func() error { return os.RemoveAll(dir) },
	} {
		t.Run(name, func(t *testing.T) {
			if name == "a directory" || name == "a link" || name == "a mend killed before" {
				if err := os.Remove(damaged); err != nil {
					t.Fatal(err)
				}
			}
			before = inode()
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			d := dist{t, d.file, d.versions}
			if again := d.start("y"); again != dir {
				t.Errorf("ran from %s", again)
			}
			info, err := os.Lstat(damaged)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(damaged); err != nil || !bytes.Equal(got, content) || info.Mode() != 0o755 {
				t.Errorf("%v, %d bytes, %v", info.Mode(), len(got), err)
			}
			if !strings.HasPrefix(name, "gone with") && inode() != before {
				t.Error("a sound file was replaced")
			}
			for _, left := range []string{damaged + ".new", filepath.Join(d.versions, ".unpack")} {
				if _, err := os.Lstat(left); err == nil && name != "a start killed before" {
					t.Errorf("%s is left", left)
				}
			}
		})
	}
}

// TestKilledWhileItUnpacks: whenever that is, the next start is whole.
func TestKilledWhileItUnpacks(t *testing.T) {
	content := machine()
	d := pack(t, content)
	for range 10 {
		if err := os.RemoveAll(d.versions); err != nil {
			t.Fatal(err)
		}
		cmd := d.command()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for {
			if _, err := os.Stat(filepath.Join(d.versions, ".unpack")); err == nil {
				break
			}
			if found, _ := filepath.Glob(filepath.Join(d.versions, "v1-*")); len(found) > 0 {
				break // it was faster
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
		dir := d.start()
		if got, err := os.ReadFile(filepath.Join(dir, "libexec/skiff/skiff-machine")); err != nil || !bytes.Equal(got, content) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
}

func TestMistakesAreExplained(t *testing.T) {
	d := pack(t, machine())
	d.start()
	for name, c := range map[string]struct {
		spoil func(t *testing.T, cmd *exec.Cmd)
		want  string
	}{
		"cut short": {func(t *testing.T, cmd *exec.Cmd) {
			data, err := os.ReadFile(d.file)
			if err != nil {
				t.Fatal(err)
			}
			cmd.Path = filepath.Join(t.TempDir(), "skiff")
			if err := os.WriteFile(cmd.Path, data[:len(data)-1000], 0o755); err != nil {
				t.Fatal(err)
			}
		}, "cut short; download it again"},
		"a directory of another user": {func(t *testing.T, cmd *exec.Cmd) {
			if os.Geteuid() != 0 {
				t.Skip("needs root to be somebody else")
			}
			// Not below the test's own directory, which is root's alone.
			dir, err := os.MkdirTemp("", "skiff-dist")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			cmd.Path = filepath.Join(dir, "skiff")
			data, err := os.ReadFile(d.file)
			if err := errors.Join(err, os.WriteFile(cmd.Path, data, 0o755), os.Chmod(dir, 0o755)); err != nil {
				t.Fatal(err)
			}
			cmd.Env = append(cmd.Env, "SKIFF_VERSIONS_DIR="+dir+"/versions")
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}, "Mend: run it once as root, or set SKIFF_VERSIONS_DIR"},
		"a file in the way": {func(_ *testing.T, cmd *exec.Cmd) {
			cmd.Env = append(cmd.Env, "SKIFF_VERSIONS_DIR="+d.file)
		}, "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := d.command()
			c.spoil(t, cmd)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), c.want) {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}
