package imports

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/skiff-k8s/skiff/"

// rule forbids imports to every package that matches one of from, direct and
// indirect ones.
type rule struct {
	// from are patterns as `go list` takes them, below the module's root.
	from []string
	// forbidden are path prefixes; those that begin with ./ are ours.
	forbidden []string
	// allowed are exceptions from forbidden.
	allowed []string
	reason  string
}

var serverCode = []string{
	"k8s.io/kubernetes", "k8s.io/apiserver", "k8s.io/kube-aggregator", "k8s.io/apiextensions-apiserver",
	"github.com/containerd/containerd", "go.etcd.io/etcd/server", "sigs.k8s.io/controller-runtime",
	"github.com/coredns/coredns", "github.com/opencontainers/runc",
}

var rules = []rule{
	{
		from:      []string{"./cmd/skiff/..."},
		forbidden: append([]string{"k8s.io/client-go/kubernetes", "k8s.io/client-go/informers", "k8s.io/api"}, serverCode...),
		reason:    "the CLI and the supervisor start in milliseconds and stay in memory once a cluster; what is big runs in skiff-machine",
	},
	{
		from:      []string{"./cmd/skiff-init/..."},
		forbidden: []string{"*"},
		allowed:   []string{"./", "golang.org/x/sys/unix"},
		reason:    "pid 1 of every machine is the standard library only: there is one in memory a node",
	},
	{
		from:      []string{"./cmd/skiff-shim/..."},
		forbidden: append([]string{"k8s.io/", "./apis/server", "./apis/storage", "./controllers", "./dataplane", "./hostnode/supervise", "./hostnode/agent"}, without(serverCode, "github.com/containerd/containerd", "github.com/opencontainers/runc")...),
		reason:    "the shim is containerd's task service and runc's library, and nothing else: there is one in memory a node",
	},
	{
		from:      []string{"./cmd/skiff-pause/..."},
		forbidden: []string{"*", "./"},
		reason:    "pause is copied into every cluster: the standard library only",
	},
	{
		from:      []string{"./cmd/skiff-dist/..."},
		forbidden: []string{"*", "./"},
		allowed:   []string{"./cmd/skiff-dist"},
		reason:    "it runs before every skiff: the standard library only",
	},
	{
		from:      []string{"./apis/machine/..."},
		forbidden: []string{"*", "./"},
		allowed:   []string{"./apis/machine"},
		reason:    "skiff-init reads these files: the standard library only",
	},
	{
		from:      []string{"./apis/cluster/..."},
		forbidden: append([]string{"./", "k8s.io/client-go", "k8s.io/api/"}, serverCode...),
		allowed:   []string{"./apis/cluster"},
		reason:    "the config file is read by the CLI, which is small; API types import nothing of skiff",
	},
	{
		from:      []string{"./apis/skiff/..."},
		forbidden: []string{"./", "k8s.io/kubernetes", "k8s.io/apiserver"},
		allowed:   []string{"./apis/skiff"},
		reason:    "API types import nothing of skiff: everything may import them",
	},
	{
		from:      []string{"./apis/server/...", "./apis/storage/...", "./apis/metrics/..."},
		forbidden: []string{"./cmd", "./controllers", "./hostnode", "./dataplane"},
		reason:    "the API server does not know who uses it: commands put them together",
	},
	{
		from:      []string{"./controllers/..."},
		forbidden: []string{"./cmd", "./hostnode", "./dataplane", "./apis/server", "./apis/storage", "github.com/containerd/containerd/v2"},
		reason:    "controllers meet nodes and packets through API objects only",
	},
	{
		from:      []string{"./hostnode/..."},
		forbidden: []string{"./cmd", "./controllers", "./apis/server", "./apis/storage", "go.etcd.io/etcd/server"},
		reason:    "a machine runs on any host, beside the control plane or without it",
	},
	{
		from:      []string{"./hostnode/supervise/...", "./hostnode/namespaces/..."},
		forbidden: serverCode,
		reason:    "the supervisor knows machines and nothing about pods; it is linked into the CLI",
	},
	{
		from:      []string{"./dataplane/..."},
		forbidden: []string{"./cmd", "./controllers", "./hostnode", "./apis/server", "./apis/storage", "github.com/containerd/containerd", "github.com/opencontainers/runc", "go.etcd.io/etcd/server"},
		reason:    "the dataplane knows Services, EndpointSlices and policies, not containers",
	},
	{
		// The commands are what ships, with all that they import; test code
		// that lies beside what it tests may use ./test.
		from:      []string{"./cmd/..."},
		forbidden: []string{"./test", "./hack", "./controllers/apitest", "./dataplane/internal/apitest", "./dataplane/internal/sandbox", "./dataplane/fabric/fabrictest", "./dataplane/lb/internal/sctp/sctptest", "./apis/storage/pagesum/pagesumtest"},
		reason:    "what ships does not need what tests it",
	},
}

func without(list []string, drop ...string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(drop, s) })
}

func TestImportsPointOneWay(t *testing.T) {
	all := packages(t, "./...")
	for _, r := range rules {
		for name, p := range all {
			if !ours(name) || !matches(name, r.from) {
				continue
			}
			for _, dep := range p.Deps {
				if all[dep].Standard || !r.forbids(dep) {
					continue
				}
				t.Errorf("%s\n  reason: %s", strings.Join(chain(all, name, dep), "\n    → "), r.reason)
				break
			}
		}
	}
}

// TestRulesCatchWhatTheyForbid keeps the table honest: a rule that never
// matches would pass for ever.
func TestRulesCatchWhatTheyForbid(t *testing.T) {
	for _, r := range rules {
		for _, f := range r.forbidden {
			dep := f + "/x"
			switch {
			case f == "*":
				dep = "example.com/x"
			case strings.HasPrefix(f, "./"):
				dep = module + strings.TrimPrefix(f, "./") + "/x"
			}
			if !r.forbids(dep) {
				t.Errorf("%v does not forbid %s", r.from, dep)
			}
		}
		for _, a := range r.allowed {
			if dep := strings.Replace(a, "./", module, 1); r.forbids(dep) {
				t.Errorf("%v forbids %s", r.from, dep)
			}
		}
	}
}

func (r rule) forbids(dep string) bool {
	for _, a := range r.allowed {
		if within(dep, a) {
			return false
		}
	}
	return slices.ContainsFunc(r.forbidden, func(f string) bool { return within(dep, f) })
}

// within says that dep is prefix or below it. "*" is everybody else's code,
// "./" all of ours.
func within(dep, prefix string) bool {
	if prefix == "*" {
		return !ours(dep)
	}
	if own, ok := strings.CutPrefix(prefix, "./"); ok {
		prefix = module + own
	}
	return dep == prefix || strings.HasPrefix(dep, strings.TrimSuffix(prefix, "/")+"/")
}

func ours(name string) bool { return strings.HasPrefix(name, module) }

func matches(name string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		return within(name, strings.TrimSuffix(p, "/..."))
	})
}

// pkg is what `go list -json` says about a package.
type pkg struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Deps       []string
}

func packages(t *testing.T, patterns ...string) map[string]pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-deps", "-json=ImportPath,Standard,Imports,Deps"}, patterns...)...)
	cmd.Dir = "../.."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	all := map[string]pkg{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p
	}
}

// chain is one shortest way from a package to a dependency.
func chain(all map[string]pkg, from, to string) []string {
	before := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		for _, next := range all[queue[0]].Imports {
			if _, seen := before[next]; seen {
				continue
			}
			before[next] = queue[0]
			queue = append(queue, next)
		}
	}
	var path []string
	for at := to; at != ""; at = before[at] {
		path = append(path, at)
	}
	slices.Reverse(path)
	return path
}
