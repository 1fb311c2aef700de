package v1alpha1

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestKindConfigsReadInAsBefore(t *testing.T) {
	files, err := filepath.Glob("testdata/kind/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no config files: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			c, err := LoadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			c.ResolvePaths("/work/dir")
			SetDefaults(c)
			if errs := Validate(c); len(errs) > 0 {
				t.Fatal(&InvalidError{Errs: errs})
			}
			names := make([]string, 0, len(c.Nodes))
			for _, n := range c.Nodes {
				names = append(names, n.Name)
			}
			got, err := json.MarshalIndent(struct {
				Cluster   *Cluster
				NodeNames []string
			}{c, names}, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, strings.TrimSuffix(file, ".yaml")+".golden.json", append(got, '\n'))

			again := *c
			SetDefaults(&again)
			if !reflect.DeepEqual(*c, again) {
				t.Errorf("SetDefaults changed what it had set:\n%+v\n%+v", *c, again)
			}
		})
	}
}

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; -update rewrites it. Have:\n%s", file, got)
	}
}

const skiffHead = "kind: Cluster\napiVersion: skiff.cluster/v1alpha1\n"
const kindHead = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\n"

func TestLoadRefusesByPath(t *testing.T) {
	for name, tc := range map[string]struct {
		file string
		// want are parts of the message, each beginning with the path.
		want []string
	}{
		"a field with a typing error": {
			skiffHead + "nodes:\n- role: worker\n- extraMount: []\n",
			[]string{"nodes[1].extraMount: unknown field; did you mean extraMounts?"}},
		"a field in another case": {
			kindHead + "nodes:\n- extramounts: []\n",
			[]string{"nodes[0].extramounts: unknown field; did you mean extraMounts?"}},
		"a field in the wrong place": {
			kindHead + "podSubnet: 10.0.0.0/16\n",
			[]string{"podSubnet: unknown field; did you mean networking.podSubnet?"}},
		"a field deep down in the wrong place": {
			kindHead + "nodes:\n- hostPort: 80\n",
			[]string{"nodes[0].hostPort: unknown field; did you mean nodes[].extraPortMappings[].hostPort?"}},
		"a field like no other": {
			kindHead + "zzzzzzzzzzz: 1\n", []string{"zzzzzzzzzzz: unknown field"}},
		"a Go field that is in no file": {
			skiffHead + "nodes:\n- name: x\n", []string{"nodes[0].name: unknown field"}},
		"patches of kubeadm's configuration": {
			kindHead + "kubeadmConfigPatches:\n- |\n  kind: ClusterConfiguration\nnodes:\n- kubeadmConfigPatchesJSON6902: [{kind: x}]\n",
			[]string{"kubeadmConfigPatches: skiff's nodes are not set up by kubeadm", "nodes[0].kubeadmConfigPatchesJSON6902: skiff's nodes are not"}},
		"patches of containerd's configuration": {
			kindHead + "containerdConfigPatches: [x]\ncontainerdConfigPatchesJSON6902: [x]\n",
			[]string{"containerdConfigPatches: skiff's containerd is built in", "containerdConfigPatchesJSON6902: skiff's containerd"}},
		"SELinux labels": {
			kindHead + "nodes:\n- extraMounts:\n  - selinuxRelabel: true\n",
			[]string{"nodes[0].extraMounts[0].selinuxRelabel: skiff does not relabel"}},
		"skiff's fields in kind's version": {
			kindHead + "durability: durable\nrestart: always\nnodes:\n- resources: {cpu: 2}\nnetworking: {nodeSubnet: 10.1.0.0/24, hostDNS: true}\n",
			[]string{"durability: not a field of kind.x-k8s.io/v1alpha4", "restart: not a field", "nodes[0].resources: not a field", "networking.nodeSubnet: not a field", "networking.hostDNS: not a field"}},
		"a field given twice": {
			skiffHead + "name: a\nname: b\n", []string{"name: Duplicate value"}},
		"a map key given twice": {
			skiffHead + "featureGates: {A: true, A: false}\n", []string{"featureGates[A]: Duplicate value"}},
		"a list where fields belong": {
			skiffHead + "networking: [a]\n", []string{"networking: Invalid value: \"…\": want fields (a mapping), have a list"}},
		"fields where a list belongs": {
			skiffHead + "nodes: {role: worker}\n", []string{"nodes: Invalid value: \"…\": want a list, have a mapping"}},
		"an empty list entry": {
			skiffHead + "nodes:\n-\n", []string{"nodes[0]: Required value: the entry is empty"}},
		"a string where a number belongs": {
			skiffHead + "networking:\n  apiServerPort: \"80\"\n",
			[]string{"networking.apiServerPort: Invalid value: \"80\": want a whole number of 32 bits, have a string"}},
		"a fraction where a whole number belongs": {
			skiffHead + "networking:\n  apiServerPort: 80.5\n", []string{"networking.apiServerPort: Invalid value: \"80.5\": want a whole number"}},
		"a number of more than 32 bits": {
			skiffHead + "networking:\n  apiServerPort: 99999999999\n", []string{"networking.apiServerPort: Invalid value: \"99999999999\""}},
		"a number where a boolean belongs": {
			skiffHead + "seccompDefault: 1\n", []string{"seccompDefault: Invalid value: \"1\": want true or false, have a number"}},
		"a gate that is neither on nor off": {
			skiffHead + "featureGates: {A: maybe}\n", []string{"featureGates[A]: Invalid value: \"maybe\": want true or false"}},
		"a mapping where a string belongs": {
			skiffHead + "name: {a: b}\n", []string{"name: Invalid value: \"…\": want a string, have a mapping"}},
		"two documents": {
			skiffHead + "---\n" + skiffHead, []string{"line 4: a second document"}},
		"no document": {"# nothing\n", []string{"apiVersion: Required value"}},
		"a list":      {"- a\n", []string{"line 1: a list, not fields of a cluster"}},
		"another kind": {
			"kind: Deployment\napiVersion: apps/v1\nspec: {}\n",
			[]string{"apiVersion: Unsupported value: \"apps/v1\"", "kind: Unsupported value: \"Deployment\": supported values: \"Cluster\""}},
		"no kind":            {"name: x\n", []string{"apiVersion: Required value", "kind: Required value: Cluster"}},
		"an old version":     {"kind: Cluster\napiVersion: kind.sigs.k8s.io/v1alpha3\n", []string{"apiVersion: Unsupported value"}},
		"not YAML":           {"kind: [\n", []string{"yaml: line 1"}},
		"not text":           {"\x00\x01\x02", []string{"yaml: "}},
		"an alias in circle": {skiffHead + "nodes: &a\n- extraMounts: *a\n", []string{"nodes[0].extraMounts[0].extraMounts: unknown field"}},
		"aliases of aliases": {
			skiffHead + "x: &m [" + strings.Repeat("{},", 1000) + "{}]\nnodes:\n- &n {extraMounts: *m}\n" + strings.Repeat("- *n\n", 1000),
			[]string{"holds more than 100000 values"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load([]byte(tc.file))
			if err == nil {
				t.Fatal("loaded")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("want %q in:\n%v", want, err)
				}
			}
		})
	}
}

func TestLoadErrorsAreOfFields(t *testing.T) {
	_, err := Load([]byte(skiffHead + "a: 1\n"))
	var invalid *InvalidError
	if !errors.As(err, &invalid) || len(invalid.Errs) != 1 || invalid.Errs[0].Field != "a" {
		t.Errorf("have %#v", err)
	}
}

func TestTooLargeFilesAreNotRead(t *testing.T) {
	if _, err := Read(strings.NewReader(strings.Repeat("#\n", MaxFileSize))); err == nil {
		t.Error("read 2 MiB")
	}
}

// FuzzLoad: whatever the file, Load and what follows it end, and what was
// accepted survives being written and read again.
func FuzzLoad(f *testing.F) {
	files, _ := filepath.Glob("testdata/kind/*.yaml")
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte(skiffHead + "nodes: &a\n- extraMounts: *a\n- <<: [*a, {role: worker}]\n"))
	f.Add([]byte(skiffHead + "etcdServers: ['https://x:1']\netcdTLS: {caFile: a}\nnodes: [{resources: {cpu: 1, memory: 12Q}}]\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := Load(raw)
		if err != nil {
			if c != nil || err.Error() == "" {
				t.Fatalf("cluster %v with error %q", c, err)
			}
			return
		}
		c.ResolvePaths("/dir")
		SetDefaults(c)
		errs := Validate(c)
		_ = (&InvalidError{Errs: errs}).Error()
		out, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Load(out)
		if err != nil {
			t.Fatalf("written and not read again: %v\n%s", err, out)
		}
		SetDefaults(again)
		if got, want := len(Validate(again)), len(errs); got != want {
			t.Fatalf("%d errors, read again %d: %s", want, got, out)
		}
	})
}
