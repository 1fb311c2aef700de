package runtime

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// logRunc puts a program in the place of runc that notes its arguments and is
// runc then, and returns what was noted.
func (n *node) logRunc() func() []string {
	n.tb.Helper()
	dir := filepath.Join(filepath.Dir(n.cfg.Root), "libexec")
	must(n.tb, os.Mkdir(dir, 0o711))
	for _, program := range []string{"skiff-shim", "skiff-pause"} {
		must(n.tb, os.Symlink(filepath.Join(n.cfg.LibexecDir, program), filepath.Join(dir, program)))
	}
	ran := n.wrapRunc(filepath.Join(dir, "runc"))
	n.cfg.LibexecDir = dir
	return ran
}

// wrapRunc makes a program that notes its arguments and is runc then, and
// returns what was noted.
func (n *node) wrapRunc(program string) func() []string {
	n.tb.Helper()
	log := program + ".log"
	script := fmt.Sprintf("#!/bin/sh\necho \"$*\" >> %s\nexec %s \"$@\"\n", log, filepath.Join(n.cfg.LibexecDir, "runc"))
	must(n.tb, os.WriteFile(program, []byte(script), 0o755))
	return func() []string {
		data, err := os.ReadFile(log)
		must(n.tb, err)
		return strings.Split(strings.TrimSpace(string(data)), "\n")
	}
}

// verbs counts what runc was called for.
func verbs(lines []string) map[string]int {
	count := map[string]int{}
	for _, line := range lines {
		for _, verb := range []string{"create", "start", "exec", "kill", "delete"} {
			if strings.Contains(line+" ", " "+verb+" ") {
				count[verb]++
			}
		}
	}
	return count
}

func TestRuncOnlyCreatesAndExecs(t *testing.T) {
	n := newNode(t)
	ran := n.logRunc()
	n.start()
	p := n.runPod(nil)
	stopped := p.runContainer("stopped", "sleep 1d", nil)
	if got := n.exec(stopped, "echo works"); got != "works" {
		t.Errorf("exec: %q", got)
	}
	ended := p.runContainer("ended", "exit 3", nil)
	if s := n.waitExit(ended); s.ExitCode != 3 {
		t.Errorf("exit code %d, want 3", s.ExitCode)
	}
	must(t, n.cri.StopContainer(t.Context(), stopped, 0))
	n.waitExit(stopped)
	n.remove(p.id)
	if v := verbs(ran()); v["create"] != 2 || v["exec"] != 1 || v["start"]+v["kill"]+v["delete"] != 0 {
		t.Errorf("runc ran %v:\n%s", v, strings.Join(ran(), "\n"))
	}
}
