package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/skiff-k8s/skiff/apis/storage/pagesum"
)

// Trouble is a reason why the embedded member cannot serve what is in its
// files, or that an existing etcd does not answer.
type Trouble struct {
	// Servers of the existing etcd; there is no file then.
	Servers []string
	// File or directory that is to blame.
	File string
	// Damaged: what is in it is not what was written. Otherwise the file
	// system takes no more of it.
	Damaged bool
	Err     error
}

func (t *Trouble) Error() string {
	if len(t.Servers) > 0 {
		return fmt.Sprintf("etcd %s does not answer: %v", strings.Join(t.Servers, ", "), t.Err)
	}
	if t.Damaged {
		return fmt.Sprintf("etcd's data is damaged: %s: %v", t.File, t.Err)
	}
	return fmt.Sprintf("etcd cannot use %s: %v", t.File, t.Err)
}

func (t *Trouble) Unwrap() error { return t.Err }

// troubleWith is the Trouble that an error of etcd's is.
func troubleWith(dir string, err error) *Trouble {
	t := &Trouble{File: dir, Err: err}
	var path *os.PathError
	if errors.As(err, &path) {
		t.File = path.Path
	}
	// All that the file system says is no damage but for an error of the disk.
	var number syscall.Errno
	t.Damaged = !errors.As(err, &number) || number == syscall.EIO
	return t
}

// Inspect looks at the data directory of a member that does not run; what is
// wrong with it is a Trouble. It finds what etcd would not: etcd takes the end
// of a log that was cut off for the end of the log, and goes on with a database
// that has more than that, into which new writes do not go. And it dies of a
// database that was cut off, by a signal. Some of the rest it finds itself,
// when it starts.
//
// A log's checksums are read for that, and the database with those that this
// package keeps of it: some milliseconds, while the API server is being
// composed.
func Inspect(dir string) error {
	db := filepath.Join(dir, "member", "snap", "db")
	if info, err := os.Stat(db); errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0 {
		return nil // there was never a write; or etcd makes it anew from the log
	}
	switch err := pagesum.Verify(filepath.Join(dir, sumsFile), db); {
	case errors.Is(err, pagesum.ErrUnknown):
		slog.Info("etcd's database is not compared with checksums", "file", db, "reason", err)
	case err != nil:
		return damaged(db, err)
	}
	applied, err := databaseIndex(db)
	if err != nil {
		return damaged(db, err)
	}
	logs := filepath.Join(dir, "member", "wal")
	last, file, err := logIndex(logs)
	if err != nil {
		return damaged(file, err)
	}
	if applied > last {
		return damaged(file, fmt.Errorf("it ends at entry %d, and the database has the effect of entry %d", last, applied))
	}
	return nil
}

func damaged(file string, err error) error {
	t := troubleWith(file, err)
	t.File = file
	return t
}

// lockBound is how long to wait for who else has the database open: nobody,
// as the machine is this process's own.
const lockBound = 5 * time.Second

// databaseIndex is the last entry whose effect the database has. It reads two
// pages and the bucket.
func databaseIndex(path string) (index uint64, err error) {
	db, err := bolt.Open(path, 0, &bolt.Options{ReadOnly: true, Timeout: lockBound})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	defer func() {
		// bbolt panics about a page that is not what it should be.
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	err = db.View(func(tx *bolt.Tx) error {
		// Before anything is touched that may be missing.
		if tx.Size() > info.Size() {
			return fmt.Errorf("it has %d bytes of %d", info.Size(), tx.Size())
		}
		bucket := tx.Bucket(schema.Meta.Name())
		if bucket == nil {
			return nil // not even begun
		}
		if value := bucket.Get(schema.MetaConsistentIndexKeyName); len(value) == 8 {
			index = binary.BigEndian.Uint64(value)
		}
		return nil
	})
	return index, err
}

// logIndex is the last entry of the log, or the snapshot that it goes on from,
// and the file that it ends in, or that is damaged.
func logIndex(dir string) (last uint64, file string, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil {
		return 0, dir, err
	}
	if len(files) == 0 {
		return 0, dir, errors.New("there is no log, and there is a database")
	}
	slices.Sort(files)
	for i, path := range files {
		index, err := segmentIndex(path, i == len(files)-1)
		if err != nil {
			return 0, path, err
		}
		last = max(last, index)
	}
	return last, files[len(files)-1], nil
}

// segmentIndex reads one file of the log. Only the last one may end in a
// record that was being written.
func segmentIndex(path string, isLast bool) (index uint64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	decoder := wal.NewDecoder(fileutil.NewFileReader(f))
	for {
		var record walpb.Record
		crc := decoder.LastCRC()
		err := decoder.Decode(&record)
		switch {
		case errors.Is(err, io.EOF), isLast && errors.Is(err, io.ErrUnexpectedEOF):
			return index, endsHere(f, decoder.LastOffset(), crc)
		case err != nil:
			return 0, fmt.Errorf("at byte %d: %w", decoder.LastOffset(), err)
		case decoder.LastOffset()%8 != 0:
			// Padding is for that; its length is in no checksum either.
			return 0, wrongLength(decoder.LastOffset())
		}
		switch record.GetType() {
		case wal.CrcType:
			// The checksum goes on from file to file.
			decoder.UpdateCRC(record.GetCrc())
		case wal.EntryType:
			var entry raftpb.Entry
			if err := proto.Unmarshal(record.Data, &entry); err != nil {
				return 0, fmt.Errorf("at byte %d: %w", decoder.LastOffset(), err)
			}
			index = entry.GetIndex()
		case wal.SnapshotType:
			var snapshot walpb.Snapshot
			if err := proto.Unmarshal(record.Data, &snapshot); err != nil {
				return 0, fmt.Errorf("at byte %d: %w", decoder.LastOffset(), err)
			}
			index = max(index, snapshot.GetIndex())
		}
	}
}

// endsHere is an error when the log goes on at an offset, but for one bit: the
// length of a record is in no checksum, and what it is too long for, or what it
// is zero for, looks like the end.
func endsHere(f io.ReaderAt, offset int64, crc uint32) error {
	rest, err := io.ReadAll(io.NewSectionReader(f, offset, math.MaxInt64-offset))
	if err != nil {
		return err
	}
	const frame = 8
	if len(rest) < frame {
		return nil
	}
	length := binary.LittleEndian.Uint64(rest)
	for bit := range 64 {
		// The highest byte is how much padding follows.
		size := (length ^ 1<<bit) &^ (0xff << 56)
		if size == 0 || size > uint64(len(rest)-frame) {
			continue
		}
		var record walpb.Record
		if proto.Unmarshal(rest[frame:frame+size], &record) != nil || record.GetType() == wal.CrcType {
			continue
		}
		if crc32.Update(crc, crc32.MakeTable(crc32.Castagnoli), record.Data) == record.GetCrc() {
			return wrongLength(offset)
		}
	}
	return nil
}

func wrongLength(offset int64) error {
	return fmt.Errorf("at byte %d: the length of a record is not what was written", offset)
}
