package storage

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
)

const beStorage = "SKIFF_TEST_BE_A_STORAGE"

// serveDamaged is a process of its own, as etcd may end it: it serves dir, and
// says what came of it.
func serveDamaged(dir string) {
	tell := func(t *Trouble) { os.Stdout.WriteString("TROUBLE " + t.Error() + "\n") }
	s, err := New(Config{DataDir: dir, Socket: filepath.Join(dir, "s.sock"), OnTrouble: tell})
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	client, err := s.Client(ctx)
	if err == nil {
		_, err = client.KV.Put(ctx, "after", "all")
	}
	cancel()
	if err := errors.Join(err, <-done); err != nil {
		os.Stdout.WriteString("ERROR " + err.Error() + "\n")
		os.Exit(1)
	}
	os.Stdout.WriteString("SERVED\n")
}

// opened says what becomes of a storage on a directory.
func opened(t *testing.T, dir string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), beStorage+"="+dir)
	out, _ := cmd.Output() // it may end with an error; what it says counts
	return string(out)
}

// filled is the data directory of a member that was given 300 writes and
// stopped.
func filled(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	s, err := New(Config{DataDir: filepath.Join(dir, "etcd"), Socket: filepath.Join(dir, "s")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	client, err := s.Client(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		if _, err := client.KV.Put(ctx, "key-"+hex.EncodeToString([]byte{byte(i / 256), byte(i)}), strings.Repeat("value", 100)); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "etcd")
}

func TestDamageIsNamedAndNeverServed(t *testing.T) {
	const log, db = "member/wal/0000000000000000-0000000000000000.wal", "member/snap/db"
	from := filled(t)
	// change edits a file in the middle of what is written there.
	change := func(name string, edit func(data []byte) []byte) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, name)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, edit(data), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	used := func(data []byte) int { return len(strings.TrimRight(string(data), "\x00")) }
	// inValue is a byte inside a stored value, from the given one on: a record's
	// padding is in no checksum, and its length fails otherwise.
	inValue := func(data []byte, from int) int { return from + bytes.Index(data[from:], []byte("valuevalue")) }
	// torn is what is said of a record whose end was cleared: etcd's decoder
	// takes it for one that was being written if a whole sector of it is empty.
	const torn = "mismatch|it ends at entry"
	tests := []struct {
		name   string
		damage func(t *testing.T, dir string)
		// want is what the trouble says of the file; both empty: it serves.
		want, file string
	}{
		{"nothing", func(*testing.T, string) {}, "", ""},
		{"a flipped bit in the log", change(log, func(d []byte) []byte { d[inValue(d, used(d)/2)] ^= 0x10; return d }), "mismatch", log},
		{"a log cut in half", change(log, func(d []byte) []byte { return d[:used(d)/2] }), "it ends at entry", log},
		{"a log whose second half is empty", change(log, func(d []byte) []byte { clear(d[used(d)/2:]); return d }), torn, log},
		{"a log that lacks its last records", change(log, func(d []byte) []byte { clear(d[used(d)-2000:]); return d }), torn, log},
		{"no log", func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "member/wal")) }, "there is no log", "member/wal"},
		{"a database cut in half", change(db, func(d []byte) []byte { return d[:len(d)/2/4096*4096] }), "bytes of", db},
		{"an empty database", change(db, func([]byte) []byte { return []byte{} }), "", ""}, // made anew from the log
		{"a database of zeros", change(db, func(d []byte) []byte { clear(d); return d }), "invalid database", db},
		{"a database with both heads broken", change(db, func(d []byte) []byte { d[40] ^= 1; d[4096+40] ^= 1; return d }), "", db},
		{"pages of the database that are not what they were", change(db, func(d []byte) []byte {
			for at := 2 * 4096; at < len(d); at += 4096 {
				d[at+8] ^= 0xff // what kind of page it is
			}
			return d
		}), "", db},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "etcd")
			if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
				t.Fatal(err)
			}
			tt.damage(t, dir)
			said := opened(t, dir)
			if tt.want == "" && tt.file == "" {
				if said != "SERVED\n" {
					t.Errorf("have %s", said)
				}
				return
			}
			named := strings.HasPrefix(said, "TROUBLE etcd's data is damaged: "+filepath.Join(dir, tt.file)+": ")
			if !named || !regexp.MustCompile(tt.want).MatchString(said) || strings.Contains(said, "SERVED") {
				t.Errorf("have %s, want %q of %s", said, tt.want, tt.file)
			}
			t.Log(said)
		})
	}
}

// TestTheLengthOfALogsRecordCounts: the database may not have what is in the
// last records yet, and so cannot tell of them.
func TestTheLengthOfALogsRecordCounts(t *testing.T) {
	path := filepath.Join(filled(t), "member/wal/0000000000000000-0000000000000000.wal")
	data := mustRead(t, path)
	want, err := segmentIndex(path, true)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var records []int64
	decoder := wal.NewDecoder(fileutil.NewFileReader(f))
	for {
		records = append(records, decoder.LastOffset())
		var record walpb.Record
		if err := decoder.Decode(&record); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if record.GetType() == wal.CrcType {
			decoder.UpdateCRC(record.GetCrc())
		}
	}
	last := records[len(records)-4 : len(records)-1]
	for _, offset := range last {
		for bit := range 64 {
			at := offset + int64(bit/8)
			if _, err := f.WriteAt([]byte{data[at] ^ 1<<(bit%8)}, at); err != nil {
				t.Fatal(err)
			}
			// Some bits of the padding's length mean nothing.
			if have, err := segmentIndex(path, true); err == nil && have != want {
				t.Errorf("bit %d of the length at byte %d: the log ends at entry %d, want %d", bit, offset, have, want)
			}
			if _, err := f.WriteAt(data[at:at+1], at); err != nil {
				t.Fatal(err)
			}
		}
	}
	// A record that was being written is the end.
	for cut := records[len(records)-2] + 8; cut < records[len(records)-1]; cut += 8 {
		if err := os.WriteFile(path, append(bytes.Clone(data[:cut]), make([]byte, len(data)-int(cut))...), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := segmentIndex(path, true); err != nil && strings.Contains(err.Error(), "length") {
			t.Errorf("cut off at %d: %v", cut, err)
		}
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

func TestAFileSystemThatTakesNoMoreIsNoDamage(t *testing.T) {
	for err, damage := range map[error]bool{syscall.ENOSPC: false, syscall.EROFS: false, syscall.EACCES: false, syscall.EIO: true, io.ErrUnexpectedEOF: true} {
		got := troubleWith("/d", fmt.Errorf("save: %w", &fs.PathError{Op: "write", Path: "/d/member/wal/0.tmp", Err: err}))
		if got.Damaged != damage || got.File != "/d/member/wal/0.tmp" {
			t.Errorf("%v: have %+v", err, got)
		}
	}
}

// BenchmarkInspect is what each start pays: a log of 300 writes.
func BenchmarkInspect(b *testing.B) {
	dir := filled(b)
	for b.Loop() {
		if err := Inspect(dir); err != nil {
			b.Fatal(err)
		}
	}
}
