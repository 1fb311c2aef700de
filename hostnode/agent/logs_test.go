package agent

import (
	"os"
	"path/filepath"
	"testing"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

func TestLogsHaveTheNamesThatAreAskedFor(t *testing.T) {
	for _, tc := range []struct {
		name string
		// there is what /var/log has before, by name.
		there map[string]string
		want  map[string]string
	}{
		{"a new machine", nil,
			map[string]string{"kubelet.log": "of the node", "containerd.log": "of the node"}},
		{"somebody's own log", map[string]string{"kubelet.log": "own"},
			map[string]string{"kubelet.log": "own", "containerd.log": "of the node"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			logs := t.TempDir()
			dir := filepath.Join(logs, filepath.Base(machinev1alpha1.LogDir))
			write := func(path, text string) {
				t.Helper()
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			write(filepath.Join(dir, machinev1alpha1.NodeService+".log"), "of the node")
			for name, text := range tc.there {
				write(filepath.Join(logs, name), text)
			}
			for range 2 { // a restart of the process
				if err := nameLogs(dir); err != nil {
					t.Fatal(err)
				}
			}
			// As upstream's kubelet opens them: nothing outside.
			root, err := os.OpenRoot(logs)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			for name, want := range tc.want {
				if got, err := root.ReadFile(name); err != nil || string(got) != want {
					t.Errorf("%s: %q, %v; want %q", name, got, err, want)
				}
			}
		})
	}
}

func TestLogsThatCannotBeNamedAreSaid(t *testing.T) {
	if err := nameLogs(filepath.Join(t.TempDir(), "missing", "skiff")); err == nil {
		t.Error("no error without a directory for the names")
	}
}
