package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
)

// TestEverySchemaOfBeforeStarts has a stored record of each: what one release
// wrote, all later ones start. A new schema brings a new file.
func TestEverySchemaOfBeforeStarts(t *testing.T) {
	needRoot(t)
	p := testPaths(t)
	const name = "svt-old"
	for n := range schema + 1 {
		t.Run(fmt.Sprint("schema ", n), func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join("testdata", "directories", fmt.Sprintf("schema%d.json", n)))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := Delete(context.Background(), name); err != nil {
					t.Error(err)
				}
			})
			for _, machine := range []string{"svt-old-control-plane", "svt-old-worker"} {
				for _, dir := range machineDirs {
					if err := os.MkdirAll(filepath.Join(p.Cluster(name), "machines", machine, dir), 0o755); err != nil {
						t.Fatal(err)
					}
				}
				for link, target := range map[string]string{"var/run": "/run", "var/lock": "/run/lock"} {
					if err := os.Symlink(target, filepath.Join(p.Cluster(name), "machines", machine, link)); err != nil {
						t.Fatal(err)
					}
				}
				if err := os.MkdirAll(filepath.Join(p.Cluster(name), "logs", machine), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for _, dir := range []string{filepath.Join(p.Cluster(name), "volumes"), p.Images()} {
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := writeFile(p.record(name), data); err != nil {
				t.Fatal(err)
			}
			// A port that is free here.
			rec, err := p.readRecord(name)
			if err != nil {
				t.Fatal(err)
			}
			sockets, err := openSockets(t.Context(), rec, openSocket)
			if err != nil {
				t.Fatal(err)
			}
			closeAll(sockets)
			if err := writeJSON(p.record(name), rec); err != nil {
				t.Fatal(err)
			}
			info, err := Start(t.Context(), name, StartOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if !serves(info) || info.Machines[1].IP != "172.30.250.11" || info.ServiceSubnet != "10.126.0.0/16" || info.Created.Year() != 2026 {
				t.Errorf("%+v", info)
			}
			if want := map[int]cluster.RestartPolicy{0: cluster.RestartNever, 1: cluster.RestartAlways}[n]; info.Restart != want {
				t.Errorf("restart %s, want %s", info.Restart, want)
			}
		})
	}
}

func TestAClusterOfANewerSkiffStandsInNobodysWay(t *testing.T) {
	needRoot(t)
	p := testPaths(t)
	strange := map[string]struct {
		content string
		state   State
	}{
		"svt-newer": {`{"schema": 99, "machines": 7, "cluster": {"name": "svt-newer", "nodes": [{"role": "control-plane", "more": {}}],
			"networking": {"apiServerAddress": "127.0.0.1", "apiServerPort": 40404, "podSubnet": "10.244.0.0/15"}}}`, Newer},
		"svt-strange": {`{"schema": 99, "cluster": ["what a newer one has"]}`, Newer},
		"svt-damaged": {`{"schema": 1, "clu`, Unreadable},
	}
	for name, s := range strange {
		t.Cleanup(func() { os.RemoveAll(p.Cluster(name)) })
		if err := writeFile(p.record(name), []byte(s.content)); err != nil {
			t.Fatal(err)
		}
	}
	list, err := List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range list {
		if s, ok := strange[info.Name]; ok && info.State != s.state {
			t.Errorf("%s is %s", info.Name, info.State)
		}
		if _, err := json.Marshal(info); err != nil {
			t.Error(err)
		}
	}
	if len(list) < len(strange) {
		t.Errorf("listed: %+v", list)
	}
	if names, err := RestartAlways(t.Context()); err != nil || slices.Contains(names, "svt-newer") {
		t.Errorf("%v, %v", names, err)
	}
	taken := testCluster("svt-beside", 0)
	taken.Networking.APIServerPort = 40404
	if _, err := Create(t.Context(), CreateOptions{Cluster: taken}); err == nil || !strings.Contains(err.Error(), `kept by cluster "svt-newer"`) {
		t.Errorf("its port for another: %v", err)
	}
	info := create(t, testCluster("svt-beside", 0))
	if info.PodSubnet == "10.244.0.0/16" || info.PodSubnet == "10.245.0.0/16" {
		t.Errorf("its range for another: %s", info.PodSubnet)
	}
	if err := Stop(t.Context(), "svt-beside", StopOptions{Now: true}); err != nil {
		t.Error(err)
	}
	if _, err := Start(t.Context(), "svt-beside", StartOptions{}); err != nil {
		t.Error(err)
	}
	var refusal *Refusal
	if _, err := Get(t.Context(), "svt-newer"); !errors.As(err, &refusal) {
		t.Errorf("itself: %v", err)
	}
	for name, s := range strange {
		if got, err := os.ReadFile(p.record(name)); string(got) != s.content || err != nil {
			t.Errorf("%s was touched: %q, %v", name, got, err)
		}
	}
}
