package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// SupervisorName is what Logs calls the cluster's supervisor.
const SupervisorName = "supervisor"

// LogsOptions of Logs.
type LogsOptions struct {
	Cluster string
	// Machine, or SupervisorName. Empty means the control plane's.
	Machine string
	// Service is "init", "control-plane" or "node"; empty means all, each
	// line with the service's name before it.
	Service string
	// Follow waits for more until ctx ends.
	Follow bool
}

// LogFiles lists the log files of a machine by service, those that are there.
func LogFiles(name, machine string) (map[string]string, error) {
	p, err := DefaultPaths()
	if err != nil {
		return nil, err
	}
	rec, err := p.readRecord(name)
	if err != nil {
		return nil, err
	}
	if machine == SupervisorName {
		return map[string]string{SupervisorName: p.SupervisorLog(name)}, nil
	}
	if machine == "" {
		machine = rec.controlPlane().Name
	}
	if err := rec.has(machine); err != nil {
		return nil, err
	}
	files := map[string]string{}
	paths, err := filepath.Glob(p.Log(name, machine, "*"))
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		files[strings.TrimSuffix(filepath.Base(path), ".log")] = path
	}
	return files, nil
}

// Logs writes the logs of a machine's services to w.
func Logs(ctx context.Context, opts LogsOptions, w io.Writer) error {
	files, err := LogFiles(opts.Cluster, opts.Machine)
	if err != nil {
		return err
	}
	if opts.Service != "" {
		path, ok := files[opts.Service]
		if !ok {
			return fmt.Errorf("machine %q has no log of %q: it has %s", opts.Machine, opts.Service, strings.Join(keys(files), ", "))
		}
		files = map[string]string{opts.Service: path}
	}
	var tails []*tail
	defer func() {
		for _, t := range tails {
			t.file.Close()
		}
	}()
	for _, service := range keys(files) {
		f, err := os.Open(files[service])
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		t := &tail{file: f}
		if len(files) > 1 {
			t.prefix = service + ": "
		}
		tails = append(tails, t)
		if err := t.copy(w); err != nil {
			return err
		}
	}
	if !opts.Follow {
		return nil
	}
	return follows(ctx, tails, w)
}

func keys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// tail is a log file read up to some point.
type tail struct {
	file   *os.File
	prefix string
	// rest is the start of a line whose end was not there yet.
	rest []byte
}

// copy writes what has been added since the last time, whole lines only.
func (t *tail) copy(w io.Writer) error {
	at, err := t.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if info, err := t.file.Stat(); err == nil && info.Size() < at {
		// Rotated: it starts anew.
		if _, err := t.file.Seek(0, io.SeekStart); err != nil {
			return err
		}
		t.rest = nil
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := t.file.Read(buf)
		t.rest = append(t.rest, buf[:n]...)
		for {
			i := slices.Index(t.rest, '\n')
			if i < 0 {
				break
			}
			if _, err := io.WriteString(w, t.prefix+string(t.rest[:i+1])); err != nil {
				return err
			}
			t.rest = t.rest[i+1:]
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
	}
}

// follows copies what is added to any of the files, when the kernel says so.
func follows(ctx context.Context, tails []*tail, w io.Writer) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("follow log: %w", err)
	}
	notify := os.NewFile(uintptr(fd), "inotify")
	defer notify.Close()
	for _, t := range tails {
		if _, err := unix.InotifyAddWatch(fd, t.file.Name(), unix.IN_MODIFY); err != nil {
			return fmt.Errorf("follow log %s: %w", t.file.Name(), err)
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = notify.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 4096)
	for {
		for _, t := range tails {
			if err := t.copy(w); err != nil {
				return err
			}
		}
		if _, err := notify.Read(buf); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("follow log: %w", err)
		}
	}
}
