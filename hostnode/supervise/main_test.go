package supervise

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/handover"
	"github.com/skiff-k8s/skiff/hostnode/lifeline"
)

// The test program plays further parts: `skiff supervise NAME`, which Create
// starts from the running program, `skiff exec`, and skiff-machine, whose
// control-plane is a TLS server on the handed-over socket with the cluster's
// real certificate; a file "trouble" in etcd's directory is what it fails of.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == machineProgram {
		play := playMachine
		if os.Args[1] == "etcd" {
			play = playEtcdTool
		}
		if err := play(os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, "Error: skiff-machine etcd:", err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) == 3 && os.Args[1] == "supervise" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		if err := Run(ctx, os.Args[2], RunOptions{}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) == 3 && verbs[os.Args[1]] != nil {
		if err := verbs[os.Args[1]](os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, os.Args[1:], err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) > 4 && os.Args[1] == "exec" {
		code, err := Exec(context.Background(), os.Args[2], os.Args[3], os.Args[4:], Streams{os.Stdin, os.Stdout, os.Stderr}, false)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 125
		}
		os.Exit(code)
	}
	os.Exit(runTests(m))
}

// verbs are commands that a test kills.
var verbs = map[string]func(name string) error{
	"stop":     func(name string) error { return Stop(context.Background(), name, StopOptions{}) },
	"stop-now": func(name string) error { return Stop(context.Background(), name, StopOptions{Now: true}) },
	"create": func(name string) error {
		_, err := Create(context.Background(), CreateOptions{Cluster: testCluster(name, 1)})
		return err
	},
	"delete":  func(name string) error { return Delete(context.Background(), name) },
	"start":   func(name string) error { _, err := Start(context.Background(), name, StartOptions{}); return err },
	"save":    saveVerb,
	"restore": func(name string) error { return restoreVerb(name, "") },
	"another": func(name string) error { return restoreVerb(name, name+"2") },
	"unsave":  func(name string) error { return DeleteSnapshot(context.Background(), name) },
	"export":  func(name string) error { return ExportSnapshot(context.Background(), name, os.Stdout) },
	"import": func(name string) error {
		_, err := ImportSnapshot(context.Background(), name, os.Stdin)
		return err
	},
}

// runTests gives the tests directories of their own and real programs.
func runTests(m *testing.M) int {
	if os.Geteuid() != 0 {
		return m.Run()
	}
	// Short: the path of a unix socket has 107 bytes.
	dir, err := os.MkdirTemp("", "skiff-test")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	libexec := filepath.Join(dir, "libexec")
	build := exec.Command("go", "build", "-o", libexec+"/", "github.com/skiff-k8s/skiff/cmd/skiff-init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("build skiff-init: %v\n%s", err, out))
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		panic(err)
	}
	if err := os.WriteFile(filepath.Join(libexec, machineProgram), self, 0o755); err != nil {
		panic(err)
	}
	os.Setenv(EnvStateDir, filepath.Join(dir, "state"))
	os.Setenv(EnvRunDir, filepath.Join(dir, "run"))
	os.Setenv(EnvLibexec, libexec)
	before := inventory()
	code := m.Run()
	names, _ := Names(context.Background()) // of tests that failed half-way
	for _, name := range names {
		fmt.Println("left behind: cluster", name, Delete(context.Background(), name))
		code = 1
	}
	for _, left := range difference(before, inventory()) {
		fmt.Println("left behind:", left)
		code = 1
	}
	return code
}

// playEtcdTool is `skiff-machine etcd` with a database of one file, "value", and
// of several the one whose value is the greatest.
func playEtcdTool(string) error {
	flags := flag.NewFlagSet("etcd", flag.ContinueOnError)
	var dirs []string
	add := func(dir string) error {
		dirs = append(dirs, dir)
		return nil
	}
	flags.Func("data-dir", "", add)
	flags.Func("member", "", func(m string) error { return add(m[strings.LastIndex(m, "=")+1:]) })
	flags.Func("endpoint", "", func(url string) error {
		return add(strings.TrimSuffix(strings.TrimPrefix(url, "unix://"), machine.RunDir+"/etcd.sock") + machine.EtcdDir)
	})
	file, _, _ := flags.String("file", "", ""), flags.String("token", "", ""), flags.String("relocate", "", "")
	if err := flags.Parse(os.Args[3:]); err != nil {
		return err
	}
	var errs []error
	if os.Args[2] == "restore" {
		data, err := os.ReadFile(*file)
		for _, dir := range dirs {
			errs = append(errs, os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "value"), data, 0o600))
		}
		fmt.Println(`{"volumes": ["pvc-saved"]}`)
		return errors.Join(append(errs, err)...)
	}
	var last []byte
	for _, dir := range dirs {
		data, err := os.ReadFile(filepath.Join(dir, "value"))
		errs = append(errs, err)
		if string(data) > string(last) {
			last = data
		}
	}
	fmt.Println(`{"revision": 7, "keys": 1, "hash": 9}`)
	return errors.Join(append(errs, os.WriteFile(*file, last, 0o600))...)
}

// playLifeline serves that of one of several control planes.
func playLifeline(ctx context.Context) error {
	data, err := os.ReadFile(machine.ControlPlaneConfigFile)
	if err != nil {
		return err
	}
	var cfg machine.ControlPlaneConfiguration
	if err := json.Unmarshal(data, &cfg); err != nil || !cfg.Replicated() {
		return err
	}
	l, err := net.Listen("tcp", netip.AddrPortFrom(cfg.NodeIPs[0], machine.LifelinePort).String())
	if err != nil {
		return err
	}
	line := lifeline.New(cfg.NodeName, cfg.LifelineClients)
	line.SetServing(true)
	go line.Run(ctx, l)
	return nil
}

func playMachine(role string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	fmt.Println(role, "starts")
	power := make(chan os.Signal, 1)
	signal.Notify(power, syscall.SIGPWR)
	// A child, as containers are, and an orphan that init has to reap.
	if err := exec.Command("/bin/sh", "-c", "sleep 1000 & sleep 0.01 & exit 0").Run(); err != nil {
		return err
	}
	if role != "control-plane" {
		select {
		case <-ctx.Done():
		case <-power:
			fmt.Println(role, "pods end")
		}
		return nil
	}
	if value, _ := os.ReadFile(machine.EtcdDir + "/value"); string(value) == "broken" {
		return errors.New("the database is broken")
	}
	if cause, err := os.ReadFile(machine.EtcdDir + "/trouble"); err == nil {
		return errors.Join(errors.New("in trouble"), os.WriteFile(machine.TroubleFile, cause, 0o644))
	}
	files, err := handover.Files(os.Getenv(machine.ListenFDs))
	if err != nil {
		return err
	}
	l, err := handover.Listener(files[machine.SocketAPIServer])
	if err != nil {
		return err
	}
	cert, err := tls.LoadX509KeyPair(machine.APIServerCertFile, machine.APIServerKeyFile)
	if err != nil {
		return err
	}
	server := &http.Server{
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}},
		Handler:   http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, os.Getpid()) }),
	}
	context.AfterFunc(ctx, func() { server.Close() })
	if err := playLifeline(ctx); err != nil {
		return err
	}
	if err := server.ServeTLS(l, "", ""); ctx.Err() == nil {
		return err
	}
	return nil
}
