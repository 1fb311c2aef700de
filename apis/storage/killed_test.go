package storage

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/skiff-k8s/skiff/apis/storage/pagesum/pagesumtest"
)

// beWriter makes the test program a storage in the directory that it names,
// which is written to until it is killed.
const beWriter = "SKIFF_TEST_BE_A_WRITER"

// defragments has it replace its database too, one time in four. The new one
// has checksums from the next look only: dead before, it is not compared.
const defragments = "SKIFF_TEST_DEFRAGMENTS"

var killings = flag.Int("killings", 10, "how often TestDeathIsNoDamage kills")

// writeUntilKilled writes a line when it has an etcd, or why not, and for each
// of the writes that are told.
func writeUntilKilled(dir string) {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stdout, nil)))
	s, err := New(Config{DataDir: dir, Socket: filepath.Join(dir, "s.sock"), OnTrouble: func(t *Trouble) { fmt.Println("TROUBLE", t) }})
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	go func() {
		fmt.Println("ENDED", s.Run(ctx))
		os.Exit(1)
	}()
	client, err := s.Client(ctx)
	if err != nil {
		return
	}
	fmt.Println("RUNS")
	var all sync.WaitGroup
	for w := range 3 {
		all.Go(func() {
			for n := 0; ; n++ {
				key := fmt.Sprintf("key-%d-%d", w, rand.IntN(200))
				if _, err := client.KV.Put(ctx, key, strings.Repeat("v", rand.IntN(2000))); err != nil {
					return
				}
				if n%20 == 0 {
					_, _ = client.KV.Delete(ctx, key)
				}
			}
		})
	}
	all.Go(func() {
		for {
			time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
			if r, err := client.KV.Get(ctx, "key"); err == nil && r.Header.Revision > 100 {
				_, _ = client.KV.Compact(ctx, r.Header.Revision-int64(rand.IntN(100)))
			}
		}
	})
	if os.Getenv(defragments) != "" && rand.IntN(4) == 0 {
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
		outside, err := clientv3.New(clientv3.Config{Endpoints: s.Endpoints()})
		if err == nil {
			_, _ = outside.Defragment(ctx, s.Endpoints()[0])
		}
	}
	all.Wait()
}

// writer is such a process.
func writer(t *testing.T, dir string, env ...string) (cmd *exec.Cmd, lines *bufio.Scanner) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.CommandContext(t.Context(), self)
	cmd.Env = append(append(os.Environ(), beWriter+"="+dir), env...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

// TestDeathIsNoDamage: whenever a member dies, and whatever it was doing then,
// its next life must not take that for damage.
func TestDeathIsNoDamage(t *testing.T) {
	dir := t.TempDir()
	served, compared := 0, 0
	for n := range *killings {
		cmd, lines := writer(t, dir, defragments+"=yes")
		kill := func() { _ = cmd.Process.Kill() }
		// Every fourth may die before it serves.
		timer := time.NewTimer(time.Hour)
		if n%4 == 3 {
			timer = time.AfterFunc(time.Duration(rand.IntN(300))*time.Millisecond, kill)
		}
		known := true
		for lines.Scan() {
			switch line := lines.Text(); {
			case strings.Contains(line, "TROUBLE") || strings.Contains(line, "ENDED"):
				t.Errorf("life %d: %s", n, line)
			case strings.Contains(line, "is not compared"):
				known = false
			case line == "RUNS":
				served++
				if known {
					compared++
				}
				timer.Stop()
				timer = time.AfterFunc(time.Duration(rand.IntN(500))*time.Millisecond, kill)
			}
		}
		timer.Stop()
		kill()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			break
		}
	}
	t.Logf("%d lives, %d of them long enough to serve, %d of these compared the database first", *killings, served, compared)
	if said := opened(t, dir); said != "SERVED\n" {
		t.Errorf("in the end: %s", said)
	}
}

func TestABitThatFlipsAfterDeathIsNoticed(t *testing.T) {
	dir := filled(t)
	cmd, lines := writer(t, dir)
	// What the writer writes is of no interest: it only has to be killed.
	db := filepath.Join(dir, "member/snap/db")
	for lines.Scan() && lines.Text() != "RUNS" {
	}
	persisted(t, db, "key-0-1", "key-1-1", "key-2-1", "vvvvvvvvvv")
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed

	for _, what := range []string{"key-0001", "key-0080", "key-00ff", "valuevalue", "key-0-1", "key-1-1", "key-2-1", "vvvvvvvvvv"} {
		at := flipInUse(t, db, what)
		said := opened(t, dir)
		if !strings.HasPrefix(said, "TROUBLE etcd's data is damaged: "+db+": page ") || strings.Contains(said, "SERVED") {
			t.Fatalf("%s: %s", what, said)
		}
		if err := pagesumtest.Flip(db, at); err != nil {
			t.Fatal(err)
		}
	}
	if said := opened(t, dir); said != "SERVED\n" {
		t.Errorf("as it was: %s", said)
	}
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// flipInUse flips a bit of a text in a page in use, and says where.
func flipInUse(t *testing.T, db, text string) int64 {
	t.Helper()
	at, err := pagesumtest.Find(db, text)
	if err == nil {
		err = pagesumtest.Flip(db, at)
	}
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// persisted returns when the database of a member that is written to holds the
// texts, and the commit that brought them has become one.
func persisted(t *testing.T, db string, texts ...string) {
	t.Helper()
	await := func(what string, so func(data []byte) bool) (data []byte) {
		t.Helper()
		for end := time.Now().Add(patient); ; time.Sleep(10 * time.Millisecond) {
			if data, err := os.ReadFile(db); err == nil && so(data) {
				return data
			}
			if time.Now().After(end) {
				t.Fatalf("%s: %s after %v", db, what, patient)
			}
		}
	}
	// commit is the number of the last one, in bbolt's heads.
	commit := func(data []byte) uint64 {
		return max(binary.LittleEndian.Uint64(data[64:]), binary.LittleEndian.Uint64(data[os.Getpagesize()+64:]))
	}
	data := await("no such texts", func(data []byte) bool {
		for _, text := range texts {
			if !bytes.Contains(data, []byte(text)) {
				return false
			}
		}
		return true
	})
	seen := commit(data)
	await("no further commit", func(data []byte) bool { return commit(data) >= seen+2 })
}
