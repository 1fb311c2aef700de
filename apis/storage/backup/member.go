package backup

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

// stopped is what the directory of a member that does not run tells of it.
type stopped struct {
	dir string
	id  uint64
	// term and index are of the last entry of its log.
	term, index uint64
	// voters are the members that vote, as of that entry.
	voters map[uint64]bool
}

// mostAdvanced is the member, of one etcd's, whose log has all that was ever
// acknowledged: that is in the logs of a majority of voters, so the most
// advanced log of any majority has it (Raft, section 5.4.1, by which voters
// elect).
func mostAdvanced(dirs []string) (*stopped, error) {
	var members []stopped
	var errs []error
	for _, dir := range dirs {
		m, err := readStopped(dir)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", dir, err))
			continue
		}
		members = append(members, *m)
	}
	if len(members) == 0 && len(dirs) == 1 {
		return &stopped{dir: dirs[0]}, nil // etcd says better what it cannot use
	}
	best, err := elect(members)
	if err != nil {
		return nil, errors.Join(append([]error{err}, errs...)...)
	}
	return best, nil
}

// elect is the most advanced voter of a majority of them.
func elect(members []stopped) (*stopped, error) {
	if len(members) == 0 {
		return nil, errors.New("no member's log can be read")
	}
	advanced := func(a, b stopped) int {
		return cmp.Or(cmp.Compare(a.term, b.term), cmp.Compare(a.index, b.index))
	}
	voters := slices.MaxFunc(members, advanced).voters
	present := slices.DeleteFunc(slices.Clone(members), func(m stopped) bool { return !voters[m.id] })
	if needed := len(voters)/2 + 1; len(present) < needed {
		return nil, fmt.Errorf("the logs of %d voters of etcd can be read, and it takes %d of %d to be sure of the last writes", len(present), needed, len(voters))
	}
	best := slices.MaxFunc(present, advanced)
	return &best, nil
}

// readStopped reads a member's log, as far as it was written: its last record
// may have been cut off, and then it was acknowledged to nobody.
func readStopped(dir string) (*stopped, error) {
	logs := walDir(dir)
	start, err := lastSnapshot(logs)
	if err != nil {
		return nil, err
	}
	w, err := wal.OpenForRead(zap.NewNop(), logs, start)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	metadata, _, entries, err := w.ReadAll()
	if err != nil {
		return nil, err
	}
	var own etcdserverpb.Metadata
	if err := proto.Unmarshal(metadata, &own); err != nil {
		return nil, fmt.Errorf("read whose log it is: %w", err)
	}
	m := &stopped{dir: dir, id: own.GetNodeID(), term: start.GetTerm(), index: start.GetIndex(), voters: map[uint64]bool{}}
	for _, id := range start.GetConfState().GetVoters() {
		m.voters[id] = true
	}
	for _, e := range entries {
		m.term, m.index = e.GetTerm(), e.GetIndex()
		if err := m.change(e); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// change notes who votes after an entry.
func (m *stopped) change(e *raftpb.Entry) error {
	if e.GetType() != raftpb.EntryConfChange {
		return nil
	}
	var change raftpb.ConfChange
	if err := proto.Unmarshal(e.GetData(), &change); err != nil {
		return fmt.Errorf("read a change of members at entry %d: %w", e.GetIndex(), err)
	}
	switch change.GetType() {
	case raftpb.ConfChangeAddNode: // a learner that is promoted, too
		m.voters[change.GetNodeId()] = true
	case raftpb.ConfChangeRemoveNode:
		delete(m.voters, change.GetNodeId())
	}
	return nil
}

// commitAll has the log of a member end with the word that all of it is
// committed: who is made the only member forgets all else. Only the copy of
// a directory is treated so.
func commitAll(dir string) error {
	logs := walDir(dir)
	start, err := lastSnapshot(logs)
	if err != nil {
		return err
	}
	w, state, entries, err := openLog(logs, start)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		last := entries[len(entries)-1]
		state.Commit = proto.Uint64(last.GetIndex())
		state.Term = proto.Uint64(max(state.GetTerm(), last.GetTerm()))
		err = w.Save(state, nil)
	}
	return errors.Join(err, w.Close())
}

// openLog opens a log for writing. As etcd does at its start, it cuts off a
// last record that was not written to its end.
func openLog(logs string, start *walpb.Snapshot) (*wal.WAL, *raftpb.HardState, []*raftpb.Entry, error) {
	for repaired := false; ; repaired = true {
		w, err := wal.Open(zap.NewNop(), logs, start)
		if err != nil {
			return nil, nil, nil, err
		}
		_, state, entries, err := w.ReadAll()
		if err == nil {
			return w, state, entries, nil
		}
		w.Close()
		if repaired || !errors.Is(err, io.ErrUnexpectedEOF) || !wal.Repair(zap.NewNop(), logs) {
			return nil, nil, nil, err
		}
	}
}

// lastSnapshot is where the log goes on from.
func lastSnapshot(logs string) (*walpb.Snapshot, error) {
	all, err := wal.ValidSnapshotEntries(zap.NewNop(), logs)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return &walpb.Snapshot{}, nil
	}
	return all[len(all)-1], nil
}

func walDir(dir string) string { return filepath.Join(dir, "member", "wal") }
