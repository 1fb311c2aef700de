package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/namespaces"
)

// trouble of a control-plane machine, in the host's words.
type trouble struct {
	machine string
	// servers of an existing etcd that do not answer, or the file on the host.
	servers []string
	file    string
	damaged bool
	cause   string
}

func (t trouble) Error() string {
	if t.unanswered() {
		return fmt.Sprintf("etcd %s does not answer: %s", strings.Join(t.servers, ", "), t.cause)
	}
	if t.damaged {
		return fmt.Sprintf("etcd's data is damaged: %s: %s", t.file, t.cause)
	}
	return fmt.Sprintf("etcd cannot use %s: %s", t.file, t.cause)
}

// unanswered: it is of no file of the machine's, and may be over at any moment.
func (t trouble) unanswered() bool { return len(t.servers) > 0 }

// mend says what to do about it.
func (p Paths) mend(name string, t trouble) string {
	if t.unanswered() {
		return "have it run and take connections from this host's machines, or put etcdServers and etcdTLS of the config right; a cluster that runs tries again by itself"
	}
	if !t.damaged {
		return "make the file system of " + t.file + " writable, with room on it; a cluster that runs goes on by itself then, another by skiff start cluster --name " + name
	}
	help := fmt.Sprintf("put %s back from a copy, or restore a snapshot; or give the data up: skiff delete cluster --name %s", t.file, name)
	sums := []string{p.sums(name, t.machine)}
	if filepath.Base(t.file) == "db" {
		sums = append(sums, p.onHost(name, t.machine, machine.EtcdPageSumsFile))
	}
	sums = slices.DeleteFunc(sums, func(path string) bool { return !exists(path) })
	if len(sums) > 0 {
		help += "\nto go on with the file as it is: rm " + strings.Join(sums, " ")
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
		path = inRoot(proc, machine.TroubleFile)
	}
	told, err := readTrouble(path)
	if err != nil {
		return trouble{}, err
	}
	return trouble{machine: machineName, servers: told.Servers, file: p.onHost(name, machineName, told.File), damaged: told.Damaged, cause: told.Cause}, nil
}

// inRoot is the host's path of a file in the root of a machine that runs.
func inRoot(proc *namespaces.Process, path string) string {
	return fmt.Sprintf("/proc/%d/root%s", proc.PID, path)
}

func readTrouble(path string) (told machine.Trouble, err error) {
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &told)
	}
	return told, err
}

// Kubelet says why the kubelet of a machine that runs does not start.
type Kubelet struct {
	// Trouble is upstream's error, which names a file in the machine.
	Trouble string    `json:"trouble"`
	Since   time.Time `json:"since"`
	// Mend is what to do about it on the host.
	Mend string `json:"mend"`
}

// kubeletTrouble is nil when there is none.
func (p Paths) kubeletTrouble(name, machineName string, proc *namespaces.Process) *Kubelet {
	told, err := readTrouble(inRoot(proc, machine.KubeletTroubleFile))
	if err != nil {
		return nil
	}
	return &Kubelet{Trouble: "the kubelet does not start: " + told.Cause, Since: told.Since,
		Mend: "rm " + p.onHost(name, machineName, told.File) + "\nit is made anew, and the kubelet starts by itself; containers run on meanwhile"}
}

// SetAside is what a damaged etcd member had.
type SetAside struct {
	// Dir is where it is.
	Dir string `json:"dir"`
	// Cause says what was damaged, and Since when it was set aside.
	Cause string    `json:"cause"`
	Since time.Time `json:"since"`
}

// setAside is nil when there is nothing, or nothing that can be read.
func (p Paths) setAside(name, machineName string) *SetAside {
	dir := p.onHost(name, machineName, machine.EtcdAsideDir)
	data, err := os.ReadFile(filepath.Join(dir, filepath.Base(machine.TroubleFile)))
	if err != nil {
		return nil
	}
	var why machine.Trouble
	if err := json.Unmarshal(data, &why); err != nil {
		return nil
	}
	t := trouble{machine: machineName, file: p.onHost(name, machineName, why.File), damaged: true, cause: why.Cause}
	return &SetAside{Dir: dir, Cause: t.Error(), Since: why.Since}
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
	if err := writeJSON(p.troubleNote(name, t.machine), p.inMachine(name, t)); err != nil {
		return fmt.Errorf("note trouble of machine %s: %w", t.machine, err)
	}
	return nil
}

// inMachine is a trouble in the machine's words.
func (p Paths) inMachine(name string, t trouble) machine.Trouble {
	file := strings.TrimPrefix(t.file, filepath.Join(p.Cluster(name), "machines", t.machine))
	return machine.Trouble{Servers: t.servers, File: file, Damaged: t.damaged, Cause: t.cause}
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

// while ends the context it returns when hopeless finds a reason why waiting is
// of no use. A client would not learn of that: its connection waits for who
// accepts it.
func while(ctx context.Context, rec *record, hopeless func(*record) error) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		for sleep(ctx, troubleRetry) == nil {
			if err := hopeless(rec); err != nil {
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
	all := slices.DeleteFunc(p.troubles(rec), trouble.unanswered)
	if p.majorityWithout(rec, all) {
		return nil
	}
	return p.refuse(rec.Cluster.Name, all)
}

// unanswered is an error when the existing etcd does not answer. A new cluster's
// never may; an older one's is waited for, which may be starting too.
func (p Paths) unanswered(rec *record) error {
	if len(rec.Cluster.EtcdServers) == 0 {
		return nil
	}
	all := slices.DeleteFunc(p.troubles(rec), func(t trouble) bool { return !t.unanswered() })
	if len(all) == 0 {
		return nil
	}
	return p.refuse(rec.Cluster.Name, all)
}

// majorityWithout says whether the control planes that are in none of the
// troubles, and have their data, are a majority. Without a trouble it is no
// question.
func (p Paths) majorityWithout(rec *record, troubles []trouble) bool {
	if len(troubles) == 0 {
		return true
	}
	all, unfit := 0, 0
	for i, m := range rec.Machines {
		if m.Role != cluster.ControlPlaneRole {
			continue
		}
		all++
		troubled := slices.ContainsFunc(troubles, func(t trouble) bool { return t.machine == m.Name })
		if troubled || memberLost(p.Cluster(rec.Cluster.Name), rec, i) {
			unfit++
		}
	}
	return unfit <= (all-1)/2
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
