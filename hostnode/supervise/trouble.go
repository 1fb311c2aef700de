package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// trouble of a control-plane machine, in the host's words.
type trouble struct {
	machine string
	// file on the host.
	file    string
	damaged bool
	cause   string
}

func (t trouble) Error() string {
	if t.damaged {
		return fmt.Sprintf("etcd's data is damaged: %s: %s", t.file, t.cause)
	}
	return fmt.Sprintf("etcd cannot use %s: %s", t.file, t.cause)
}

// mend says what to do about it.
func (p Paths) mend(name string, t trouble) string {
	if !t.damaged {
		return "make the file system of " + t.file + " writable, with room on it; a cluster that runs goes on by itself then, another by skiff start cluster --name " + name
	}
	help := fmt.Sprintf("put %s back from a copy, or restore a snapshot; or give the data up: skiff delete cluster --name %s", t.file, name)
	if sums := p.sums(name, t.machine); exists(sums) {
		help += "\nto go on with the file as it is: rm " + sums
	}
	return help
}

// troubles are those of the machines that run, by their own words, and of
// those that do not, as the last start left it.
func (p Paths) troubles(rec *record) []trouble {
	var all []trouble
	for _, m := range rec.Machines {
		if m.Role != cluster.ControlPlaneRole {
			continue
		}
		if t, err := p.troubleOf(rec.Cluster.Name, m.Name); err == nil {
			all = append(all, t)
		}
	}
	return all
}

func (p Paths) troubleOf(name, machineName string) (trouble, error) {
	path := p.troubleNote(name, machineName)
	if proc, _, err := findProcess(p.machineState(name, machineName)); err == nil {
		defer proc.Close()
		path = fmt.Sprintf("/proc/%d/root%s", proc.PID, machine.TroubleFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return trouble{}, err
	}
	var told machine.Trouble
	if err := json.Unmarshal(data, &told); err != nil {
		return trouble{}, err
	}
	return trouble{machine: machineName, file: p.onHost(name, machineName, told.File), damaged: told.Damaged, cause: told.Cause}, nil
}

// onHost is the host's path of a file in a machine's /var.
func (p Paths) onHost(name, machineName, path string) string {
	if within(path, "/var") {
		return filepath.Join(p.Cluster(name), "machines", machineName, path)
	}
	return path
}

// note keeps a trouble for get clusters, after the machine is gone.
func (p Paths) note(name string, t trouble) error {
	path := p.troubleNote(name, t.machine)
	inMachine := strings.TrimPrefix(t.file, filepath.Join(p.Cluster(name), "machines", t.machine))
	if err := writeJSON(path, machine.Trouble{File: inMachine, Damaged: t.damaged, Cause: t.cause}); err != nil {
		return fmt.Errorf("note trouble of machine %s: %w", t.machine, err)
	}
	return nil
}

// forget what an earlier start noted.
func (p Paths) forget(rec *record) error {
	var errs []error
	for _, m := range rec.Machines {
		if err := os.Remove(p.troubleNote(rec.Cluster.Name, m.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// troubleRetry is between two looks for the files that control planes leave:
// they are in other mount namespaces, from where no event comes.
const troubleRetry = 50 * time.Millisecond

// whileServable ends the context it returns when nobody will ever serve. A
// client would not learn of that: its connection waits for who accepts it.
func (p Paths) whileServable(ctx context.Context, rec *record) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		for sleep(ctx, troubleRetry) == nil {
			if err := p.outvoted(rec); err != nil {
				cancel(err)
			}
		}
	})
	return ctx, func() {
		cancel(nil)
		watch.Wait()
	}
}

// outvoted is an error when so many control planes are in trouble that the
// others are no majority: nobody will ever be ready.
func (p Paths) outvoted(rec *record) error {
	all := p.troubles(rec)
	controlPlanes := 0
	for _, m := range rec.Machines {
		if m.Role == cluster.ControlPlaneRole {
			controlPlanes++
		}
	}
	if len(all) <= (controlPlanes-1)/2 {
		return nil
	}
	return p.refuse(rec.Cluster.Name, all)
}

// refuse notes the troubles and says the first one with its mend.
func (p Paths) refuse(name string, all []trouble) error {
	for _, t := range all {
		if err := p.note(name, t); err != nil {
			return err
		}
	}
	return &Refusal{Err: all[0], Help: p.mend(name, all[0])}
}
