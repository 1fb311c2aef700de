// Command skiff-init is process 1 of every machine, and the watcher that
// restarts a supervisor. Skiff starts it; a person never does.
package main

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/namespaces/pid1"
)

// supervisorFD is the socket on which the supervisor hands over the
// MachineConfiguration and hears how the boot went.
const supervisorFD = 3

// settleAfter is when nothing waits for this process any more.
const settleAfter = 5 * time.Second

func init() {
	// The main thread makes the cgroup namespace and starts the services
	// in it; see pid1.Boot.
	runtime.LockOSThread()
	// One thread of Go code is enough, and each more costs memory in every
	// machine.
	runtime.GOMAXPROCS(1)
}

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	var err error
	switch {
	case len(os.Args) == 1 && os.Getpid() == 1:
		err = runMachine(log)
	case len(os.Args) > 1 && os.Args[1] == "watch":
		err = runWatch(os.Args[2:], log)
	default:
		fmt.Fprintln(os.Stderr, "skiff-init is started by skiff, not by hand.")
		os.Exit(2)
	}
	if err != nil {
		log.Error("skiff-init", "error", err)
		os.Exit(1)
	}
}

func runMachine(log *slog.Logger) error {
	supervisor, err := pid1.OpenSupervisor(supervisorFD)
	if err != nil {
		return err
	}
	services, err := bootMachine(supervisor, log)
	supervisor.Report(err)
	if err != nil {
		return err
	}
	// What only the boot needed.
	time.AfterFunc(settleAfter, debug.FreeOSMemory)
	services.Run()
	return nil
}

func bootMachine(supervisor *pid1.Supervisor, log *slog.Logger) (*pid1.Services, error) {
	cfg, err := supervisor.Configuration()
	if err != nil {
		return nil, err
	}
	sockets, err := pid1.ParseSockets(os.Getenv(machine.ListenFDs))
	if err != nil {
		return nil, err
	}
	if err := pid1.Boot(cfg); err != nil {
		return nil, fmt.Errorf("boot machine %s: %w", cfg.Name, err)
	}
	return pid1.NewServices(cfg, sockets, log)
}

func runWatch(args []string, log *slog.Logger) error {
	flags := flag.NewFlagSet("watch", flag.ContinueOnError)
	cfg := pid1.WatchConfig{}
	flags.IntVar(&cfg.PID, "pid", 0, "process to watch first")
	flags.StringVar(&cfg.Marker, "while", "", "file whose absence ends the watcher")
	flags.StringVar(&cfg.Program, "program", "", "path of skiff")
	flags.StringVar(&cfg.Cluster, "cluster", "", "name of the cluster")
	if err := flags.Parse(args); err != nil {
		return err
	}
	return pid1.Watch(cfg, log)
}
