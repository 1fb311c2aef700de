package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// enter joins cgroups, takes a core and becomes another program: what only a
// process itself can do before it opens its first socket.
func enter(args []string) error {
	fs := flag.NewFlagSet("enter", flag.ContinueOnError)
	cgroups := fs.String("cgroups", "", "directories to join, comma separated")
	cpu := fs.Int("cpu", -1, "the one core to run on")
	ownRun := fs.Bool("own-run", false, "an empty /run of its own, where iptables has its lock")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() == 0 {
		return fmt.Errorf("enter: want a program")
	}
	for dir := range strings.SplitSeq(*cgroups, ",") {
		if dir == "" {
			continue
		}
		if err := os.WriteFile(dir+"/cgroup.procs", []byte("0"), 0o644); err != nil {
			return fmt.Errorf("join cgroup: %w", err)
		}
	}
	if *cpu >= 0 {
		var set unix.CPUSet
		set.Set(*cpu)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("run on core %d: %w", *cpu, err)
		}
	}
	if *ownRun {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("own mounts: %w", err)
		}
		if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("own /run: %w", err)
		}
	}
	path, err := exec.LookPath(fs.Arg(0))
	if err != nil {
		return err
	}
	return unix.Exec(path, fs.Args(), os.Environ())
}
