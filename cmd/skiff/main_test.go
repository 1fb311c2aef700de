package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	v1alpha1 "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	"github.com/skiff-k8s/skiff/cmd/skiff/internal/docker"
	"github.com/skiff-k8s/skiff/cmd/skiff/internal/progress"
	"github.com/skiff-k8s/skiff/hostnode/snapshot"
	"github.com/skiff-k8s/skiff/hostnode/supervise"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
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

// emptyHost gives the test directories of its own, without clusters.
func emptyHost(t *testing.T) (env map[string]string, dir string) {
	t.Helper()
	dir = t.TempDir()
	t.Setenv(supervise.EnvStateDir, filepath.Join(dir, "state"))
	t.Setenv(supervise.EnvRunDir, filepath.Join(dir, "run"))
	t.Setenv(supervise.EnvLibexec, filepath.Join(dir, "libexec"))
	return map[string]string{"HOME": dir}, dir
}

// run calls the whole command line and returns what it says.
func run(t *testing.T, env map[string]string, dir, stdin string, args ...string) (out, errOut string, code int) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	a := &app{
		IOStreams: IOStreams{In: strings.NewReader(stdin), Out: &stdout, ErrOut: &stderr},
		getenv:    func(key string) string { return env[key] },
		workDir:   func() (string, error) { return dir, nil },
		now:       time.Now, style: progress.Plain,
	}
	code = a.run(t.Context(), args)
	return stdout.String(), stderr.String(), code
}

func TestHelpReadsAsBefore(t *testing.T) {
	a := &app{}
	root := a.rootCommand()
	root.InitDefaultCompletionCmd()
	var all strings.Builder
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if strings.HasPrefix(cmd.CommandPath(), "skiff completion ") {
			return // cobra's own text
		}
		out, _, code := run(t, nil, "", "", append(strings.Fields(cmd.CommandPath())[1:], "--help")...)
		if code != 0 {
			t.Errorf("%s --help: exit code %d", cmd.CommandPath(), code)
		}
		fmt.Fprintf(&all, "$ %s --help\n%s\n", cmd.CommandPath(), out)
		for _, c := range cmd.Commands() {
			walk(c)
		}
	}
	walk(root)
	golden(t, "help.txt", []byte(all.String()))
}

// TestMistakesAreExplained holds what users read when something is wrong.
func TestMistakesAreExplained(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	env, dir := emptyHost(t)
	env[docker.HostEnv] = "unix://" + dir + "/docker.sock"
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("typo.yaml", "kind: Cluster\napiVersion: skiff.cluster/v1alpha1\nnodes:\n- role: control-plane\n- extraMount: []\n")
	write("wrong.yaml", "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nname: Dev\nnetworking: {ipFamily: dual, podSubnet: 10.0.0.0/8, serviceSubnet: 10.96.0.0/16}\nnodes: [{}, {}]\n")
	write("pod.yaml", "kind: Pod\napiVersion: v1\n")
	write("broken.yaml", "kind: [\n")

	var all strings.Builder
	for _, step := range []struct {
		stdin string
		args  string
	}{
		{"", "creat"},
		{"", "create"},
		{"", "create clusters"},
		{"", "create cluster extra"},
		{"", "snapshot create --name none"},
		{"", "snapshot create UPPER"},
		{"", "snapshot restore none"},
		{"", "snapshot delete none"},
		{"", "snapshot export"},
		{"", "snapshot import pod.yaml"},
		{"", "create cluster --nme dev"},
		{"", "create cluster --wait soon"},
		{"", "create cluster -v -1"},
		{"", "create cluster --name Dev_1"},
		{"", "create cluster --name " + strings.Repeat("a", 50)},
		{"", "create cluster --image kindest/node:v1.30.0"},
		{"", "create cluster --config absent.yaml"},
		{"", "create cluster --config typo.yaml"},
		{"", "create cluster --config wrong.yaml"},
		{"", "create cluster --config pod.yaml"},
		{"", "create cluster --config broken.yaml"},
		{"", "create cluster --config -"},
		{"kind: Cluster\napiVersion: skiff.cluster/v1alpha1\nnodes: [{resources: {memory: 12Q}}]\n", "create cluster --config -"},
		{"", "delete cluster --name nope"},
		{"", "delete cluster --name ../etc"},
		{"", "delete clusters"},
		{"", "delete clusters --all"},
		{"", "get"},
		{"", "get clusters"},
		{"", "get clusters -q"},
		{"", "get clusters -o json"},
		{"", "get clusters -o xml"},
		{"", "get nodes"},
		{"", "get nodes --name nope"},
		{"", "get nodes -A"},
		{"", "get kubeconfig --name nope"},
		{"", "export kubeconfig --name nope"},
		{"", "export logs --name nope"},
		{"", "load image-archive"},
		{"", "load image-archive absent.tar"},
		{"", "load image-archive pod.yaml --name nope"},
		{"", "load docker-image"},
		{"", "load docker-image app:v1 db:v2"},
		{"", "load docker-image app:v1 --name nope"},
		{"", "stop cluster --name nope"},
		{"", "stop cluster nope"},
		{"", "stop clusters"},
		{"", "stop clusters --all"},
		{"", "stop clusters --restart-always"},
		{"", "start cluster --name nope"},
		{"", "start cluster --name ../etc"},
		{"", "start clusters nope --all"},
		{"", "start clusters --restart-always --all"},
		{"", "start clusters --restart-always"},
		{"", "restart cluster --name nope"},
		{"", "pause cluster --name nope"},
		{"", "pause clusters"},
		{"", "unpause cluster --name nope"},
		{"", "kill node nope-worker"},
		{"", "exec nope-worker"},
		{"", "exec nope-worker -- true"},
		{"", "trace"},
		{"", "trace service web-0"},
		{"", "trace service web-0 10.96.0.1"},
		{"", "trace service web-0 db:0"},
		{"", "trace service Web db"},
		{"", "trace service web-0 shop/db"},
		{"", "trace service web-0 db --protocol icmp"},
		{"", "trace service web-0 db -o yaml"},
		{"", "trace policy web-0 db.shop.example.org"},
		{"", "trace policy web-0 db --name nope"},
		{"", "logs nope-worker"},
		{"", "logs"},
		{"", "version"},
		{"", "version -o xml"},
	} {
		argv := strings.Fields(step.args)
		for i, arg := range argv {
			if strings.HasSuffix(arg, ".yaml") || strings.HasSuffix(arg, ".tar") {
				argv[i] = filepath.Join(dir, arg)
			}
		}
		out, errOut, code := run(t, env, dir, step.stdin, argv...)
		fmt.Fprintf(&all, "$ skiff %s\n%s%s[%d]\n\n", step.args, out, errOut, code)
	}
	text := strings.NewReplacer(dir, "DIR", runtime.Version(), "GO", runtime.GOOS+"/"+runtime.GOARCH, "PLATFORM").Replace(all.String())
	golden(t, "mistakes.txt", []byte(text))
	if left, _ := filepath.Glob(filepath.Join(dir, ".kube*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func addrs(texts ...string) (all []netip.Addr) {
	for _, t := range texts {
		all = append(all, netip.MustParseAddr(t))
	}
	return all
}

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, t := range texts {
		all = append(all, netip.MustParsePrefix(t))
	}
	return all
}

func TestListsReadAsBefore(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	info := supervise.Info{
		Name: "dev", State: supervise.Degraded, Created: now.Add(-3 * time.Hour), Durability: v1alpha1.Ephemeral, PowerCut: "may lose the last writes", Restart: v1alpha1.RestartNever, Endpoint: "127.0.0.1:40001",
		NodeSubnet: "172.30.0.0/24", PodSubnet: "10.244.0.0/16", ServiceSubnet: "10.96.0.0/16", LoadBalancerSubnet: "172.31.0.0/24",
		Machines: []supervise.MachineInfo{
			{Name: "dev-control-plane", Role: v1alpha1.ControlPlaneRole, IP: "172.30.0.10", PodCIDR: "10.244.0.0/24", IPs: addrs("172.30.0.10", "fd00::a"), PodCIDRs: prefixes("10.244.0.0/24", "fd00:1::/64"), PID: 4711, Running: true, Started: now.Add(-90 * time.Second)},
			{Name: "dev-worker", Role: v1alpha1.WorkerRole, IP: "172.30.0.11", PodCIDR: "10.244.1.0/24", IPs: addrs("172.30.0.11"), PodCIDRs: prefixes("10.244.1.0/24")},
		},
		Cluster: &v1alpha1.Cluster{Nodes: []v1alpha1.Node{
			{ExtraPortMappings: []v1alpha1.PortMapping{{ContainerPort: 30080, HostPort: 8080, ListenAddress: "127.0.0.1", Protocol: "TCP"}}},
			{Resources: v1alpha1.Resources{CPU: "2", Memory: "4Gi", Pods: 110}},
		}},
	}
	var out bytes.Buffer
	a := &app{IOStreams: IOStreams{Out: &out}, now: func() time.Time { return now }}
	for _, output := range outputs {
		fmt.Fprintf(&out, "$ skiff get clusters -o %s\n", output)
		if err := printRows(a, output, clusterHeader, []clusterRow{{info}}); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "\n$ skiff get nodes -o %s\n", output)
		if err := printRows(a, output, nodeHeader, nodeRows(&info)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&out)
	}
	images, err := imageRows([]byte(`[{"name":"docker.io/library/app:v1","id":"sha256:0123456789abcdef0123","size":4200000,"loadedAt":"2030-01-02T02:04:05Z","layers":["x"]}]`))
	if err != nil {
		t.Fatal(err)
	}
	for _, output := range outputs {
		fmt.Fprintf(&out, "$ skiff get images -o %s\n", output)
		if err := printRows(a, output, imageHeader, images); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&out)
	}
	snapshots := []snapshotRow{
		{snapshot.Manifest{Format: 1, Name: "before-upgrade", Cluster: "dev", Nodes: 3, Created: now.Add(-50 * time.Hour), Version: "v1.37.2+skiff", Bytes: 405527, Etcd: snapshot.Etcd{Keys: 247}}},
		{snapshot.Manifest{Name: "of-a-newer-skiff"}},
	}
	for _, output := range []string{"name", "wide"} {
		fmt.Fprintf(&out, "$ skiff snapshot list -o %s\n", output)
		if err := printRows(a, output, snapshotHeader, snapshots); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&out)
	}
	golden(t, "lists.txt", out.Bytes())
}

func TestTheReleaseIsOneVersionOfKubernetes(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	upstream, _, _ := strings.Cut(v1alpha1.KubernetesVersion, "+")
	if !strings.Contains(string(mod), "k8s.io/kubernetes "+upstream+"\n") {
		t.Errorf("go.mod does not require k8s.io/kubernetes %s", upstream)
	}
	if !strings.HasPrefix(upstream, "v"+v1alpha1.KubernetesMinor+".") {
		t.Errorf("%s is not of minor version %s", upstream, v1alpha1.KubernetesMinor)
	}
}

func TestEventsOfACreateAreKindsSteps(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(0, 0)
	a := &app{IOStreams: IOStreams{ErrOut: &out}, now: func() time.Time { return now }}
	steps := a.steps()
	show := a.showEvents(steps)
	for _, e := range []supervise.Event{
		{Step: supervise.StepCheck}, {Step: supervise.StepCheck, Done: true},
		{Step: supervise.StepBuild}, {Step: supervise.StepBuild, Done: true},
		{Step: supervise.StepNetwork}, {Step: supervise.StepMachines, Machine: "dev-worker"},
		{Step: supervise.StepNetwork, Done: true, Note: "the host does not forward packets"},
		{Step: supervise.StepMachines, Done: true},
		{Step: supervise.StepServer}, {Step: supervise.StepServer, Done: true},
	} {
		now = now.Add(10 * time.Millisecond)
		show(e)
	}
	steps.End(nil)
	want := "Note: the host does not forward packets\n ✓ Preparing machines 📦 0.08s\n ✓ Starting control-plane 🕹️ 0.01s\n"
	if out.String() != want {
		t.Errorf("want:\n%s\nhave:\n%s", want, out.String())
	}
}

func TestAnInterruptedCreateSaysWhatIsLeft(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	failed := errors.New("port in use")
	if got := interrupted(ctx, failed, false); !errors.Is(got, failed) {
		t.Errorf("not interrupted: %v", got)
	}
	cancel()
	for retain, want := range map[bool]string{false: "taken away", true: "kept"} {
		if got := interrupted(ctx, context.Cause(ctx), retain); !strings.Contains(got.Error(), want) {
			t.Errorf("retain %t: %v", retain, got)
		}
	}
	undo := fmt.Errorf("create: %w", errors.Join(ctx.Err(), errors.New("undo: busy")))
	if got := interrupted(ctx, undo, false); !errors.Is(got, undo) {
		t.Errorf("rollback failed: %v", got)
	}
	if got := interrupted(ctx, nil, false); got != nil {
		t.Errorf("no error: %v", got)
	}
}

func TestTheToolsLastWordIsTheError(t *testing.T) {
	log, word := splitError("time=x level=warning msg=\"Error: no\"\nError: skiff-machine images: archive a.tar: cut short\n")
	if err := toolError(word, nil, "a.tar"); err.Error() != "cut short" || log != "time=x level=warning msg=\"Error: no\"\n" {
		t.Errorf("have %q, log %q", err, log)
	}
	log, word = splitError("Error: x\n  Mend: y\n")
	if m, ok := errors.AsType[mender](toolError(word, nil, "")); log != "" || !ok || m.Mend() != "y" {
		t.Errorf("have %q, log %q", word, log)
	}
}

func TestWordsOfTheShell(t *testing.T) {
	for in, want := range map[string]string{"": "''", "/a/b-c.yaml": "/a/b-c.yaml", "a b": "'a b'", "it's": `'it'\''s'`, "$x": "'$x'"} {
		if got := shellQuote(in); got != want {
			t.Errorf("%q: want %s, have %s", in, want, got)
		}
	}
}
