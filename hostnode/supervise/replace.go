package supervise

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/skiff-k8s/skiff/hostnode/snapshot"
)

// replacement changes places between directories of a stopped cluster and new
// ones, all or none whenever it is cut off:
//
//	staged (new/ is being filled) → decided (a file says which, and that new
//	ones go in) → exchanged → dropped
//	decided → reversed (the file says that old ones go back) → dropped
//
// Until it is decided, what is there is of no use to anybody. From then on
// whoever has the cluster's lock next goes on with it.
type replacement struct {
	// cluster is the cluster's directory, dir where new and old ones are.
	cluster, dir string
}

// decision is the file that a replacement is decided by.
type decision struct {
	// Live are the directories that are replaced, below the cluster's. The
	// new one of Live[i] is new/i, and the old one becomes old/i.
	Live []string `json:"live"`
	// Back says that the old ones go back.
	Back bool `json:"back,omitempty"`
}

func (p Paths) replacement(name string) replacement {
	return replacement{cluster: p.Cluster(name), dir: p.replaced(name)}
}

func (r replacement) file() string         { return filepath.Join(r.dir, "decision.json") }
func (r replacement) next(i int) string    { return filepath.Join(r.dir, "new", strconv.Itoa(i)) }
func (r replacement) old(i int) string     { return filepath.Join(r.dir, "old", strconv.Itoa(i)) }
func (r replacement) live(l string) string { return filepath.Join(r.cluster, l) }

// stage makes an empty place for new directories. Every one of live is there
// from then on.
func (r replacement) stage(live []string) error {
	dirs := []string{filepath.Join(r.dir, "new"), filepath.Join(r.dir, "old")}
	for _, l := range live {
		dirs = append(dirs, r.live(l))
	}
	err := os.RemoveAll(r.dir)
	for _, dir := range dirs {
		err = errors.Join(err, os.MkdirAll(dir, 0o700))
	}
	if err != nil {
		return fmt.Errorf("make room for new directories: %w", err)
	}
	return nil
}

// exchange puts the new directories into the places of live, for good or
// until reverse.
func (r replacement) exchange(live []string) error {
	if err := r.decide(decision{Live: live}); err != nil {
		return err
	}
	return r.resume()
}

// reverse puts the old ones back.
func (r replacement) reverse() error {
	d, err := r.decided()
	if err != nil || d == nil {
		return err
	}
	if err := r.decide(decision{Live: d.Live, Back: true}); err != nil {
		return err
	}
	return r.resume()
}

func (r replacement) decide(d decision) error {
	data, err := json.Marshal(d)
	if err != nil {
		return err
	}
	if err := syncFS(r.dir); err != nil { // what is exchanged, before it counts
		return err
	}
	tmp := r.file() + ".new"
	if err := snapshot.WriteFile(tmp, data); err != nil {
		return err
	}
	return os.Rename(tmp, r.file())
}

// decided is nil when nothing is.
func (r replacement) decided() (*decision, error) {
	data, err := os.ReadFile(r.file())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	d := &decision{}
	if err == nil {
		err = json.Unmarshal(data, d)
	}
	if err != nil {
		return nil, fmt.Errorf("read what a restore decided: %w", err)
	}
	return d, nil
}

// resume completes what is decided. Each step is one rename, so what there is
// says how far it got.
func (r replacement) resume() error {
	d, err := r.decided()
	if err != nil || d == nil {
		return err
	}
	for i, live := range d.Live {
		from, to := r.next(i), r.old(i)
		if d.Back {
			from, to = to, from
		}
		if err := swap(r.live(live), from, to); err != nil {
			return fmt.Errorf("exchange %s: %w", r.live(live), err)
		}
	}
	return nil
}

// swap moves live to to and from to live. Without a from it has happened.
func swap(live, from, to string) error {
	if !exists(from) {
		return nil
	}
	if exists(live) {
		if err := os.Rename(live, to); err != nil {
			return err
		}
	}
	return os.Rename(from, live)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// drop removes what is in nobody's place any more.
func (r replacement) drop() error {
	if err := syncFS(r.cluster); err != nil { // the exchange, before the way back is gone
		return err
	}
	// The decision last: without it, new directories would be of no use.
	for _, path := range []string{filepath.Join(r.dir, "new"), filepath.Join(r.dir, "old"), r.dir} {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove what was replaced: %w", err)
		}
	}
	return nil
}

// settle ends the restore of a command that was killed: what was decided is
// completed, else forgotten. The caller has the cluster's lock.
func (r replacement) settle() error {
	if !exists(r.dir) {
		return nil
	}
	if err := r.resume(); err != nil {
		return err
	}
	return r.drop()
}
