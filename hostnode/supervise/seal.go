package supervise

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// A stopped cluster's etcd is sealed: the checksums of its files lie beside
// them, from the end of the stop to the next start. They are for all of its
// files, whoever wrote them; what etcd's log and package apis/storage/pagesum
// have is there without a stop, too, but only for what they know.

// sum of a file.
type sum struct {
	Size int64  `json:"size"`
	CRC  string `json:"crc32c"`
}

// etcdDir is etcd's data directory of a machine on the host, sums the file
// with its checksums. Who replaces the directory replaces them too.
func (p Paths) etcdDir(name, machineName string) string {
	return p.onHost(name, machineName, machine.EtcdDir)
}

func (p Paths) sums(name, machineName string) string {
	return filepath.Join(p.etcdDir(name, machineName), "sums.json")
}

// condemned is the file that tells a machine that its member is damaged.
func (p Paths) condemned(name, machineName string) string {
	return p.onHost(name, machineName, machine.EtcdDamagedFile)
}

// seal writes the checksums of a cluster that does not run. Where there are
// some, nothing has written since, or should have: they stay. And what etcd
// itself could not read is nothing to hold anybody to.
func (p Paths) seal(rec *record) error {
	return p.eachEtcd(rec, func(machineName string) error {
		if exists(p.sums(rec.Cluster.Name, machineName)) || exists(p.troubleNote(rec.Cluster.Name, machineName)) {
			return nil
		}
		sums, err := sumFiles(p.etcdDir(rec.Cluster.Name, machineName))
		if err != nil {
			return err
		}
		if len(sums) == 0 {
			return nil
		}
		path := p.sums(rec.Cluster.Name, machineName)
		err = writeJSON(path, sums)
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EROFS) {
			// Such a cluster can be stopped all the same, only not sealed.
			_ = os.Remove(path + ".new")
			return nil
		}
		return err
	})
}

// verify compares the files with their checksums, if there are any: a cluster
// whose processes all died has none. A member that is damaged is told so, if
// the others are a majority: it is made anew from them.
func (p Paths) verify(rec *record) error {
	var damaged []trouble
	name := rec.Cluster.Name
	for _, m := range rec.Machines {
		sealed := exists(p.sums(name, m.Name))
		file, err := p.changed(name, m.Name)
		if err != nil {
			return fmt.Errorf("compare etcd's files of %s with their checksums: %w", m.Name, err)
		}
		if file != "" {
			damaged = append(damaged, sealBroken(m.Name, file))
		} else if sealed {
			// Of an earlier start, and mended since.
			if err := os.Remove(p.condemned(name, m.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	if len(damaged) == 0 {
		return nil
	}
	if !p.majorityWithout(rec, damaged) {
		return p.refuse(name, damaged)
	}
	for _, t := range damaged {
		if err := writeJSON(p.condemned(name, t.machine), p.inMachine(name, t)); err != nil {
			return fmt.Errorf("tell machine %s that its etcd is damaged: %w", t.machine, err)
		}
	}
	return nil
}

func sealBroken(machineName, file string) trouble {
	return trouble{machine: machineName, file: file, damaged: true, cause: "it is not as the last stop left it"}
}

// unseal comes before etcd writes. What is damaged stays as it is until the
// member is made anew.
func (p Paths) unseal(rec *record) error {
	return p.eachEtcd(rec, func(machineName string) error {
		if exists(p.condemned(rec.Cluster.Name, machineName)) {
			return nil
		}
		if err := os.Remove(p.sums(rec.Cluster.Name, machineName)); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

func (p Paths) eachEtcd(rec *record, do func(machineName string) error) error {
	var g errgroup.Group
	for _, m := range rec.Machines {
		if m.Role == cluster.ControlPlaneRole {
			g.Go(func() error { return do(m.Name) })
		}
	}
	return g.Wait()
}

// changed is the first file that is not as its checksum says; empty: none.
func (p Paths) changed(name, machineName string) (string, error) {
	data, err := os.ReadFile(p.sums(name, machineName))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var want map[string]sum
	if err := json.Unmarshal(data, &want); err != nil {
		return p.sums(name, machineName), nil // as good as any other file of it
	}
	dir := p.etcdDir(name, machineName)
	have, err := sumFiles(dir)
	if err != nil {
		return "", err
	}
	for _, file := range sorted(keysOf(want)) {
		if have[file] != want[file] {
			return filepath.Join(dir, file), nil
		}
	}
	return "", nil
}

func keysOf(sums map[string]sum) []string {
	keys := make([]string, 0, len(sums))
	for k := range sums {
		keys = append(keys, k)
	}
	return keys
}

// sumFiles reads all files of etcd's.
func sumFiles(dir string) (map[string]sum, error) {
	sums := map[string]sum{}
	table := crc32.MakeTable(crc32.Castagnoli)
	member := filepath.Join(dir, "member")
	err := filepath.WalkDir(member, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == member {
			return filepath.SkipAll // etcd never ran
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		hash := crc32.New(table)
		size, err := io.Copy(hash, f)
		sums[name] = sum{Size: size, CRC: fmt.Sprintf("%08x", hash.Sum32())}
		return err
	})
	return sums, err
}
