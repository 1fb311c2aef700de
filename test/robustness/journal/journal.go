package journal

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrInUse says that another process has the journal open: two Pods of one
// name, or two lives of one container, run at once.
var ErrInUse = errors.New("the journal is in use")

// Record of a journal.
type Record struct {
	// Number counts from 1.
	Number int
	// ID is the writer's name for it, without spaces.
	ID string
}

// padding makes a record longer than what a disk writes at once, so that a
// torn one shows.
var padding = strings.Repeat("0123456789abcdef", 64)

func (r Record) line() []byte {
	text := fmt.Sprintf("%d %s %s", r.Number, r.ID, padding)
	return fmt.Appendf(nil, "%s %08x\n", text, crc32.ChecksumIEEE([]byte(text)))
}

// Parse reads a journal's records up to the first that is not whole; rest is
// what is there from then on.
func Parse(data []byte) (records []Record, rest []byte) {
	for len(data) > 0 {
		end := bytes.IndexByte(data, '\n')
		if end < 0 {
			return records, data
		}
		var r Record
		if n, err := fmt.Sscanf(string(data[:end]), "%d %s ", &r.Number, &r.ID); n != 2 || err != nil || !bytes.Equal(r.line(), data[:end+1]) {
			return records, data
		}
		records, data = append(records, r), data[end+1:]
	}
	return records, nil
}

// Journal that is open for appending.
type Journal struct {
	f    *os.File
	last int
}

// Open takes the journal of a directory for this process alone. It makes one,
// and takes away the torn end of one; anything else that is not whole is an
// error.
func Open(dir string) (*Journal, error) {
	path := filepath.Join(dir, "journal")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	j := &Journal{f: f}
	if err := j.recover(dir); err != nil {
		f.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return j, nil
}

func (j *Journal) recover(dir string) error {
	if err := unix.Flock(int(j.f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errors.Join(ErrInUse, err)
	}
	data, err := os.ReadFile(j.f.Name())
	if err != nil {
		return err
	}
	records, rest := Parse(data)
	if i := bytes.IndexByte(rest, '\n'); i >= 0 {
		return fmt.Errorf("record %d is damaged", len(records)+1)
	}
	if err := j.f.Truncate(int64(len(data) - len(rest))); err != nil {
		return err
	}
	j.last = len(records)
	// The file's name must survive too.
	parent, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer parent.Close()
	return errors.Join(j.f.Sync(), parent.Sync())
}

// Append returns when the record is on the disk. After an error the journal
// is of no use: how much of the record is there is not known.
func (j *Journal) Append(id string) (int, error) {
	r := Record{Number: j.last + 1, ID: id}
	if _, err := j.f.Write(r.line()); err != nil {
		return 0, err
	}
	if err := j.f.Sync(); err != nil {
		return 0, err
	}
	j.last = r.Number
	return r.Number, nil
}

// Close gives the journal to whoever opens it next.
func (j *Journal) Close() error { return j.f.Close() }

// Verify compares a journal's content with what its writers were told: which
// number each acknowledged ID has, and which IDs have no answer.
func Verify(data []byte, acknowledged map[string]int, open map[string]bool) []string {
	var wrong []string
	records, rest := Parse(data)
	// The end may be in the middle of being written.
	if bytes.IndexByte(rest, '\n') >= 0 {
		wrong = append(wrong, fmt.Sprintf("record %d is damaged", len(records)+1))
	}
	seen := map[string]int{}
	for i, r := range records {
		if r.Number != i+1 {
			wrong = append(wrong, fmt.Sprintf("record %d has number %d", i+1, r.Number))
		}
		if seen[r.ID] != 0 {
			wrong = append(wrong, fmt.Sprintf("record %d is record %d again", r.Number, seen[r.ID]))
		}
		seen[r.ID] = r.Number
		if _, ok := acknowledged[r.ID]; !ok && !open[r.ID] {
			wrong = append(wrong, fmt.Sprintf("record %d is nobody's: %s", r.Number, r.ID))
		}
	}
	for id, number := range acknowledged {
		if seen[id] != number {
			wrong = append(wrong, fmt.Sprintf("record %d was acknowledged, its ID %s is at %d", number, id, seen[id]))
		}
	}
	return wrong
}
