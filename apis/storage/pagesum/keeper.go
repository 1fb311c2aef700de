package pagesum

import (
	"fmt"
	"log/slog"
	"os"
	"sync"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"golang.org/x/sys/unix"
)

const (
	// appendMost is how many bytes of records a file may have behind the first
	// one, or four times what that has, before it is made anew.
	appendMost = 1 << 20
	// retryAfter is how many commits a file that could not be written is left
	// alone.
	retryAfter = 64
)

// Config of a Keeper.
type Config struct {
	// Path of the file.
	Path string
	// Durable makes every record reach the disk before the commit that it is
	// of, as the commit itself does. Otherwise a power cut leaves checksums of
	// another moment, and Verify does not know.
	Durable bool
}

// Keeper adds checksums of what is written to one database after another. Its
// methods may be called from several goroutines.
type Keeper struct {
	cfg Config

	mu      sync.Mutex // guards the field below
	current *log
}

// New Keeper; it starts nothing.
func New(cfg Config) *Keeper { return &Keeper{cfg: cfg} }

// Attach has the file of the backend's database made and kept, from now on. It
// reads the whole database. Where that is done it costs nothing, so it can be
// called whenever the database may have become another one.
func (k *Keeper) Attach(of backend.Backend) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	tx := of.BatchTx()
	// Nobody commits, and nobody exchanges the database.
	tx.LockOutsideApply()
	defer tx.Unlock()
	db, write, err := seam(of)
	if err != nil {
		return err
	}
	if k.current != nil {
		if k.current.db == db {
			return nil
		}
		k.current.close()
		k.current = nil
	}
	l, err := newLog(k.cfg, db)
	if err != nil {
		return fmt.Errorf("checksums of %s: %w", db.Path(), err)
	}
	next := *write
	*write = func(b []byte, offset int64) (int, error) {
		l.wrote(b, offset)
		return next(b, offset)
	}
	k.current = l
	return nil
}

// Close the file, after the database.
func (k *Keeper) Close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current != nil {
		k.current.close()
		k.current = nil
	}
}

// log is the file of one database. bbolt calls it from one commit at a time.
type log struct {
	cfg Config
	db  *bolt.DB
	id  identity
	at  head
	// all are the pages as the last commit left them, pending what the next one
	// has written so far.
	all     sums
	pending []page

	mu sync.Mutex // guards the fields below
	// file is nil after an error: then there are no records of commits since.
	file             *os.File
	closed           bool
	first, appended  int64
	most             int64 // appendMost
	commits, writeAt int
}

func newLog(cfg Config, db *bolt.DB) (*log, error) {
	f, err := os.Open(db.Path())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	l := &log{cfg: cfg, db: db, most: appendMost}
	if l.id, err = identify(f); err != nil {
		return nil, err
	}
	if l.at, err = readHead(f); err != nil {
		return nil, err
	}
	var all []page
	err = each(f, l.at, func(number uint64, data []byte) { all = append(all, page{number, sum(data)}) })
	if err != nil {
		return nil, err
	}
	l.all.set(all)
	return l, l.rewrite()
}

// rewrite makes the file anew, as the last commit left the database.
func (l *log) rewrite() error {
	f, size, err := create(l.cfg.Path, l.id, record{l.at.commit, l.at.sum, l.all.pages()}, l.cfg.Durable)
	if err != nil {
		return err
	}
	if l.file != nil {
		l.file.Close()
	}
	l.file, l.first, l.appended = f, size, 0
	return nil
}

func (l *log) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
}

// wrote is called before each write to the database.
func (l *log) wrote(b []byte, offset int64) {
	size := int64(l.at.pageSize)
	if offset >= 2*size {
		for at := int64(0); at+size <= int64(len(b)); at += size {
			l.pending = append(l.pending, page{uint64((offset + at) / size), sum(b[at : at+size])})
		}
		return
	}
	next, ok := parseHead(b)
	if !ok {
		return // bbolt writes none
	}
	l.commit(next)
}

// commit adds a record before the head is written that makes it one.
func (l *log) commit(next head) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.commits++
	if !l.closed && (l.file == nil && l.commits >= l.writeAt || l.file != nil && l.appended > max(l.most, 4*l.first)) {
		l.check(l.rewrite())
	}
	if l.file != nil {
		data := record{next.commit, next.sum, l.pending}.append(nil)
		_, err := l.file.Write(data)
		if err == nil && l.cfg.Durable {
			err = unix.Fdatasync(int(l.file.Fd()))
		}
		l.appended += int64(len(data))
		l.check(err)
	}
	l.all.set(l.pending)
	l.at, l.pending = next, l.pending[:0]
}

// check leaves the file alone for a while after an error: the database is more
// than its checksums.
func (l *log) check(err error) {
	if err == nil {
		return
	}
	if l.file != nil {
		l.file.Close()
		l.file = nil
		slog.Warn("checksums of etcd's database are not written: damage done now is not noticed", "file", l.cfg.Path, "error", err)
	}
	l.writeAt = l.commits + retryAfter
}
