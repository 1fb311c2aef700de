// Command skiff-init is process 1 of every machine, and the watcher that
// restarts a supervisor. Skiff starts it; a person never does.
package main

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"runtime"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/namespaces/pid1"
)

// configFD is the descriptor on which the supervisor hands over the
// MachineConfiguration.
const configFD = 3

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
	cfg, err := pid1.ReadConfiguration(configFD)
	if err != nil {
		return err
	}
	sockets, err := pid1.ParseSockets(os.Getenv(machine.ListenFDs))
	if err != nil {
		return err
	}
	if err := pid1.Boot(cfg); err != nil {
		return fmt.Errorf("boot machine %s: %w", cfg.Name, err)
	}
	services, err := pid1.NewServices(cfg, sockets, log)
	if err != nil {
		return err
	}
	services.Run()
	return nil
}

func runWatch(args []string, log *slog.Logger) error {
	flags := flag.NewFlagSet("watch", flag.ContinueOnError)
	cfg := pid1.WatchConfig{}
	flags.IntVar(&cfg.PID, "pid", 0, "process to watch first")
	flags.StringVar(&cfg.Marker, "while", "", "file whose absence ends the watcher")
	if err := flags.Parse(args); err != nil {
		return err
	}
	cfg.Command = flags.Args()
	return pid1.Watch(cfg, log)
}
