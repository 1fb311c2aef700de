package pagesum

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/schema"

	"github.com/skiff-k8s/skiff/apis/storage/pagesum/pagesumtest"
)

// lab is a database with its checksums.
type lab struct {
	db, sums string
	be       backend.Backend
	keeper   *Keeper
}

func newLab(t testing.TB) *lab {
	t.Helper()
	dir := t.TempDir()
	l := &lab{db: filepath.Join(dir, "db"), sums: filepath.Join(dir, "db.sums")}
	l.open(t)
	t.Cleanup(l.close)
	return l
}

func (l *lab) open(t testing.TB) {
	t.Helper()
	cfg := backend.DefaultBackendConfig(nil)
	cfg.Path, cfg.BatchInterval, cfg.UnsafeNoFsync = l.db, time.Hour, true
	l.be = backend.New(cfg)
	tx := l.be.BatchTx()
	tx.LockOutsideApply()
	tx.UnsafeCreateBucket(schema.Key)
	tx.Unlock()
	l.be.ForceCommit()
	l.keeper = New(Config{Path: l.sums})
	if err := l.keeper.Attach(l.be); err != nil {
		t.Fatal(err)
	}
}

func (l *lab) close() {
	if l.be != nil {
		l.be.Close()
		l.keeper.Close()
		l.be = nil
	}
}

func key(n int) []byte { return fmt.Appendf(nil, "key-%06d", n) }

// work is a commit like those of etcd's: it adds keys at the end and deletes
// some elsewhere.
func (l *lab) work(random *rand.Rand, at int) {
	tx := l.be.BatchTx()
	tx.LockOutsideApply()
	for i := range 1 + random.IntN(20) {
		size := random.IntN(500)
		if random.IntN(30) == 0 {
			size = 10_000 // more than a page
		}
		tx.UnsafePut(schema.Key, key(at*20+i), []byte(strings.Repeat("v", size)))
	}
	if at > 0 && random.IntN(3) == 0 {
		for range random.IntN(40) {
			tx.UnsafeDelete(schema.Key, key(random.IntN(at*20)))
		}
	}
	tx.Unlock()
	l.be.ForceCommit()
}

func TestEachBitOfAPageInUseCounts(t *testing.T) {
	l := newLab(t)
	random := rand.New(rand.NewPCG(1, 0))
	for i := range 60 {
		l.work(random, i)
	}
	l.close()
	if err := Verify(l.sums, l.db); err != nil {
		t.Fatal(err)
	}
	used, err := pagesumtest.InUse(l.db)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(l.db)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := readHead(f)
	if err != nil {
		t.Fatal(err)
	}
	free := 0
	for number := uint64(2); number < h.pages; number++ {
		at := int64(number)*int64(h.pageSize) + random.Int64N(int64(h.pageSize))
		flip(t, l.db, at)
		err := Verify(l.sums, l.db)
		flip(t, l.db, at)
		var damage *Damage
		switch {
		case used[number] && (!errors.As(err, &damage) || damage.Page != number):
			t.Errorf("page %d in use: %v", number, err)
		case !used[number] && err != nil:
			t.Errorf("free page %d: %v", number, err)
		}
		if !used[number] {
			free++
		}
	}
	if err := Verify(l.sums, l.db); err != nil {
		t.Error(err)
	}
	if free == 0 || len(used) < 50 {
		t.Errorf("%d pages in use and %d free: too few", len(used), free)
	}
}

func flip(t *testing.T, path string, at int64) {
	t.Helper()
	if err := pagesumtest.Flip(path, at); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// write into the file that is there: another one has no checksums.
func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestChecksumsAreForOneDatabaseOnly(t *testing.T) {
	random := rand.New(rand.NewPCG(2, 0))
	tests := []struct {
		name string
		do   func(t *testing.T, l *lab)
		want error
	}{
		{"as it was left", func(*testing.T, *lab) {}, nil},
		{"opened again", func(t *testing.T, l *lab) { l.open(t); l.work(random, 60); l.close() }, nil},
		{"written to by somebody who keeps none", func(t *testing.T, l *lab) {
			db, err := bolt.Open(l.db, 0, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Update(func(tx *bolt.Tx) error { return tx.Bucket(schema.Key.Name()).Put([]byte("x"), []byte("y")) }); err != nil {
				t.Fatal(err)
			}
			db.Close()
		}, ErrUnknown},
		{"a copy in its place", func(t *testing.T, l *lab) {
			data := read(t, l.db)
			write(t, l.db+".copy", data)
			if err := os.Rename(l.db+".copy", l.db); err != nil {
				t.Fatal(err)
			}
		}, ErrUnknown},
		{"compacted", func(t *testing.T, l *lab) {
			l.open(t)
			if err := l.be.Defrag(); err != nil {
				t.Fatal(err)
			}
			l.work(random, 60)
			l.close()
		}, ErrUnknown},
		{"compacted, and attached again", func(t *testing.T, l *lab) {
			l.open(t)
			if err := l.be.Defrag(); err != nil {
				t.Fatal(err)
			}
			l.work(random, 60)
			for range 2 {
				if err := l.keeper.Attach(l.be); err != nil {
					t.Fatal(err)
				}
			}
			l.work(random, 61)
			l.close()
		}, nil},
		{"without checksums", func(t *testing.T, l *lab) {
			if err := os.Remove(l.sums); err != nil {
				t.Fatal(err)
			}
		}, ErrUnknown},
		{"with checksums that are damaged", func(t *testing.T, l *lab) {
			data := read(t, l.sums)
			data[len(data)/2] ^= 4
			write(t, l.sums, data)
		}, ErrUnknown},
		{"with checksums of another format", func(t *testing.T, l *lab) {
			write(t, l.sums, []byte("skiffps\x02 and what may follow it, which is not to be read"))
		}, ErrUnknown},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			for i := range 50 {
				l.work(random, i)
			}
			l.close()
			tt.do(t, l)
			if err := Verify(l.sums, l.db); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("have %v, want %v", err, tt.want)
			}
			if _, err := os.Stat(l.sums); tt.want != nil && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("checksums that mean nothing are still there: %v", err)
			}
		})
	}
}

// TestWhereverItIsCutOff: after every write to the database, and within it, and
// with every record of the checksums written whole, or in part.
func TestWhereverItIsCutOff(t *testing.T) {
	l := newLab(t)
	// What the database was before each write, and its checksums then.
	type step struct {
		sums   []byte
		offset int64
		data   []byte
	}
	var steps []step
	l.keeper.Close()
	_, last, err := seam(l.be)
	if err != nil {
		t.Fatal(err)
	}
	db, next := read(t, l.db), *last
	*last = func(b []byte, offset int64) (int, error) {
		steps = append(steps, step{read(t, l.sums), offset, bytes.Clone(b)})
		return next(b, offset)
	}
	l.keeper = New(Config{Path: l.sums})
	if err := l.keeper.Attach(l.be); err != nil {
		t.Fatal(err)
	}
	l.keeper.current.most = 2_000
	random := rand.New(rand.NewPCG(3, 0))
	for i := range 60 {
		l.work(random, i)
	}
	l.close()

	id := labIdentity(t, l.db)
	states, anew := 0, 0
	expect := func(what string, sums, db []byte) {
		t.Helper()
		write(t, l.db, db)
		if have := labIdentity(t, l.db); have != id {
			t.Fatal("the file has become another one")
		}
		states++
		if _, err := verify(sums, l.db); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i, s := range steps {
		what := fmt.Sprintf("write %d of %d bytes at %d", i, len(s.data), s.offset)
		expect("before "+what, s.sums, db)
		if from := lastRecord(t, s.sums); i > 0 && !bytes.Equal(s.sums, steps[i-1].sums) {
			expect("before its record, and "+what, s.sums[:from+random.IntN(len(s.sums)-from)], db)
			if from < len(steps[i-1].sums) {
				anew++
			}
		}
		if grow := int(s.offset) + len(s.data) - len(db); grow > 0 {
			db = append(db, make([]byte, grow)...)
		}
		part := bytes.Clone(db)
		copy(part[s.offset:], s.data[:random.IntN(len(s.data))])
		expect("in "+what, s.sums, part)
		copy(db[s.offset:], s.data)
		expect("after "+what, s.sums, db)
	}
	t.Logf("%d writes, %d states, made anew %d times", len(steps), states, anew)
	if len(steps) < 200 || anew == 0 {
		t.Errorf("only %d writes, and made anew %d times", len(steps), anew)
	}
}

// lastRecord is where it begins.
func lastRecord(t *testing.T, data []byte) (from int) {
	t.Helper()
	_, rest, ok := parseIdentity(data)
	for ok && len(rest) > 0 {
		from = len(data) - len(rest)
		_, rest, ok = parseRecord(rest)
	}
	if !ok {
		t.Fatal("a record that is not whole")
	}
	return from
}

func TestAFileThatCannotBeWrittenIsTriedAgain(t *testing.T) {
	l := newLab(t)
	l.keeper.Close()
	dir := filepath.Join(t.TempDir(), "away")
	l.sums = filepath.Join(dir, "db.sums")
	l.keeper = New(Config{Path: l.sums})
	if err := l.keeper.Attach(l.be); err == nil {
		t.Fatal("attached without a directory")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := l.keeper.Attach(l.be); err != nil {
		t.Fatal(err)
	}
	l.keeper.current.most = 0
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(4, 0))
	for i := range 50 {
		l.work(random, i)
	}
	if l.keeper.current.file != nil {
		t.Fatal("it is written without a directory")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range retryAfter {
		l.work(random, 50+i)
	}
	l.close()
	if err := Verify(l.sums, l.db); err != nil {
		t.Error(err)
	}
}

func labIdentity(t *testing.T, path string) identity {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	id, err := identify(f)
	if err != nil {
		t.Fatal(err)
	}
	return id
}
