package main

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	const head = "/skiff/libexec/runc --root /run/runc/k8s.io --log /b/log.json --log-format json "
	for name, test := range map[string]struct {
		line string
		want call
		ok   bool
	}{
		"start":                       {head + "start a", call{verb: "start", root: "/run/runc/k8s.io", id: "a"}, true},
		"delete":                      {head + "delete a", call{verb: "delete", root: "/run/runc/k8s.io", id: "a"}, true},
		"kill":                        {head + "kill a 15", call{verb: "kill", root: "/run/runc/k8s.io", id: "a", signal: unix.SIGTERM}, true},
		"kill all":                    {head + "kill --all a 9", call{verb: "kill", root: "/run/runc/k8s.io", id: "a", signal: unix.SIGKILL, all: true}, true},
		"kill by name is runc's":      {head + "kill a TERM", call{}, false},
		"a forced delete is runc's":   {head + "delete --force a", call{}, false},
		"create is runc's":            {head + "create --bundle /b a", call{}, false},
		"an unknown option is runc's": {"runc --root /r --systemd-cgroup start a", call{}, false},
		"an unknown root is runc's":   {"runc start a", call{}, false},
		"no verb":                     {strings.TrimSpace(head), call{}, false},
		"nothing":                     {"", call{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			args := strings.Fields(test.line)
			before := slices.Clone(args)
			got, err := parse(args)
			if test.ok != (err == nil) || test.ok && got != test.want {
				t.Errorf("parse(%q) = %+v, %v", test.line, got, err)
			}
			if !slices.Equal(args, before) {
				t.Errorf("runc would get %q", args)
			}
		})
	}
}

// What is not done here must be left as it was, for runc to do.
func TestDoLeavesUnknownContainersToRunc(t *testing.T) {
	root := t.TempDir()
	for _, verb := range []string{"start a", "kill a 9", "delete a"} {
		if err := do(strings.Fields("runc --root " + root + " " + verb)); err == nil {
			t.Errorf("%s of a container that is not there succeeds", verb)
		}
	}
}
