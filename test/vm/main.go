package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skiff-k8s/skiff/test/vm/report"
)

// follow is how often the findings' file is looked at: it is qemu's, and a
// plain file tells nobody that it grew.
const follow = time.Second

func main() {
	var m machine
	flag.StringVar(&m.dir, "dir", "", "directory with disk.img, vmlinuz and initrd.img of hack/test-vm.sh; findings go there")
	flag.DurationVar(&m.bound, "timeout", 2*time.Hour, "how long the guest may run")
	page := flag.String("report", "", "write the report of all directories that follow, instead of booting one")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := writeReport(*page, flag.Args())
	if *page == "" {
		err = m.run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

// machine is one guest.
type machine struct {
	dir   string
	bound time.Duration
}

func (m machine) file(name string) string { return filepath.Join(m.dir, name) }

// run boots the guest and waits until it powers off.
func (m machine) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, m.bound, fmt.Errorf("the guest still ran after %v", m.bound))
	defer cancel()
	for _, name := range []string{"disk.img", "vmlinuz", "initrd.img"} {
		if _, err := os.Stat(m.file(name)); err != nil {
			return fmt.Errorf("boot: %w", err)
		}
	}
	// Ports append to what is there.
	if err := os.WriteFile(m.file("findings.jsonl"), nil, 0o644); err != nil {
		return err
	}
	ended := make(chan struct{})
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(ended)
		return m.qemu(ctx)
	})
	group.Go(func() error { return m.watch(ended) })
	if err := errors.Join(group.Wait(), m.judge()); err != nil {
		return fmt.Errorf("%w; the console is in %s", err, m.file("console.log"))
	}
	return nil
}

// judge says what is wrong with the findings, and writes down why as far as
// the guest could tell.
func (m machine) judge() error {
	found, err := readRun(m.dir)
	if err != nil {
		return err
	}
	if err := found.Err(); err != nil {
		if evidence := found.Evidence(); evidence != "" {
			return errors.Join(fmt.Errorf("%w; what the cluster said is in %s", err, m.file("evidence.log")),
				os.WriteFile(m.file("evidence.log"), []byte(evidence), 0o644))
		}
		return err
	}
	return nil
}

// kernelArguments: emulated cores start one after the other, so the kernel
// takes their cycle counters for unsynchronized and asks a device for the time
// instead, thousands of times a second and one core at a time. What guards
// against other people's code costs time for nothing here.
const kernelArguments = "root=/dev/vda rw rootflags=prjquota console=ttyS0 panic=10 tsc=reliable clocksource=tsc nowatchdog mitigations=off"

// qemu runs the guest. Reboots stay inside of it. The disk is thrown away, so
// qemu itself need not flush it; the guest's page cache is lost by a power cut
// all the same.
func (m machine) qemu(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "nice", "-n", "5", "qemu-system-x86_64",
		"-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "4G",
		"-nic", "none", "-display", "none", "-monitor", "none",
		"-kernel", m.file("vmlinuz"), "-initrd", m.file("initrd.img"),
		"-append", kernelArguments,
		"-drive", "file="+m.file("disk.img")+",format=raw,if=virtio,cache=unsafe",
		"-device", "virtio-rng-pci",
		"-serial", "file:"+m.file("console.log"), "-serial", "file:"+m.file("findings.jsonl"))
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("qemu: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// watch prints findings as they come, until the guest has ended.
func (m machine) watch(ended <-chan struct{}) error {
	f, err := os.Open(m.file("findings.jsonl"))
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewReader(f)
	var part strings.Builder
	for over := false; ; {
		line, err := in.ReadString('\n')
		part.WriteString(line)
		switch {
		case err == nil:
			if finding, ok := report.Parse(part.String()); ok {
				fmt.Println(finding)
			}
			part.Reset()
		case !errors.Is(err, io.EOF):
			return err
		case over:
			return nil
		default:
			select {
			case <-ended:
				over = true // once more, for what came last
			case <-time.After(follow):
			}
		}
	}
}

// readRun reads the findings of a directory, and what hack/test-vm.sh knew
// before the guest: lines of "name: value".
func readRun(dir string) (report.Run, error) {
	f, err := os.Open(filepath.Join(dir, "findings.jsonl"))
	if err != nil {
		return report.Run{}, err
	}
	defer f.Close()
	run, err := report.Read(f)
	if err != nil {
		return run, err
	}
	facts, err := os.ReadFile(filepath.Join(dir, "facts"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return run, err
	}
	for line := range strings.Lines(string(facts)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
			run.Findings = append(run.Findings, report.Finding{Fact: name, Value: value})
		}
	}
	return run, nil
}

// writeReport writes the page about the runs in dirs.
func writeReport(page string, dirs []string) error {
	if page == "" {
		return nil
	}
	var runs []report.Run
	for _, dir := range dirs {
		run, err := readRun(dir)
		if err != nil {
			return fmt.Errorf("report: %w", err)
		}
		runs = append(runs, run)
	}
	var b strings.Builder
	if err := report.Write(&b, runs, time.Now()); err != nil {
		return err
	}
	return os.WriteFile(page, []byte(b.String()), 0o644)
}
