package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skiff-k8s/skiff/cmd/skiff/internal/progress"
	"github.com/skiff-k8s/skiff/hostnode/supervise"
)

func TestTheUnitReadsAsBefore(t *testing.T) {
	golden(t, "skiff.service", unitFile("/usr/local/bin/skiff", nil))
	moved := string(unitFile(`/opt/a b/skiff`, []string{`SKIFF_STATE_DIR=/data/100%/"x"`}))
	for _, line := range []string{
		`ExecStart="/opt/a b/skiff" start clusters --restart-always --wait 9m`, `Environment="SKIFF_STATE_DIR=/data/100%%/\"x\""`,
	} {
		if !strings.Contains(moved, line+"\n") {
			t.Errorf("lacks %s:\n%s", line, moved)
		}
	}
}

func TestTheServiceIsInstalledAndUninstalled(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	env, dir := emptyHost(t)
	env[supervise.EnvStateDir] = "/data/skiff"
	units := filepath.Join(dir, "units")
	unit, wants := filepath.Join(units, unitName), filepath.Join(units, "multi-user.target.wants", unitName)
	for range 2 { // the second changes nothing
		if _, errOut, code := run(t, env, dir, "", "install-service", "--directory", units); code != 0 {
			t.Fatal(errOut)
		}
		data, err := os.ReadFile(wants) // through the link
		if err != nil || !strings.Contains(string(data), "Environment=\"SKIFF_STATE_DIR=/data/skiff\"\n") {
			t.Errorf("unit %q, %v", data, err)
		}
	}
	if err := os.WriteFile(unit, []byte("of an older skiff"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, errOut, code := run(t, env, dir, "", "install-service", "--directory", units); code != 0 {
		t.Fatal(errOut)
	}
	if data, _ := os.ReadFile(unit); !strings.Contains(string(data), "ExecStart=") {
		t.Errorf("unit %q", data)
	}
	for range 2 { // the second is fine
		if _, errOut, code := run(t, env, dir, "", "uninstall-service", "--directory", units); code != 0 {
			t.Fatal(errOut)
		}
		var left []string
		_ = filepath.WalkDir(units, func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				left = append(left, path)
			}
			return nil
		})
		if len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}

func TestAHostWithoutSystemdIsToldTheCommand(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	var out, errOut bytes.Buffer
	a := &app{IOStreams: IOStreams{Out: &out, ErrOut: &errOut}, getenv: func(string) string { return "" }, style: progress.Plain}
	s := newService(dir)
	s.none = true
	if err := a.installService(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(out.String(), " start clusters --restart-always\n") || strings.Count(out.String(), "\n") != 1 {
		t.Errorf("printed %q", out.String())
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("wrote %v", left)
	}
}
