package storage

import (
	"bufio"
	"bytes"
	"context"
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

	bolt "go.etcd.io/bbolt"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// beWriter makes the test program a storage in the directory that it names,
// which is written to until it is killed.
const beWriter = "SKIFF_TEST_BE_A_WRITER"

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
	if rand.IntN(4) == 0 {
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
		outside, err := clientv3.New(clientv3.Config{Endpoints: s.Endpoints()})
		if err == nil {
			_, _ = outside.Defragment(ctx, s.Endpoints()[0])
		}
	}
	all.Wait()
}

// writer is such a process.
func writer(t *testing.T, dir string) (cmd *exec.Cmd, lines *bufio.Scanner) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), beWriter+"="+dir)
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
		cmd, lines := writer(t, dir)
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
	for !bytes.Contains(mustRead(t, db), []byte("key-2-")) && t.Context().Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed

	data := mustRead(t, db)
	f, err := os.OpenFile(db, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	inUse := pagesInUse(t, db)
	for _, what := range []string{"key-0001", "key-0080", "key-00ff", "valuevalue", "key-0-1", "key-1-1", "key-2-1", "vvvvvvvvvv"} {
		at := find(data, what, inUse)
		if at < 0 {
			t.Errorf("no %q in the database", what)
			continue
		}
		if _, err := f.WriteAt([]byte{data[at+3] ^ 0x20}, int64(at)+3); err != nil {
			t.Fatal(err)
		}
		said := opened(t, dir)
		if !strings.HasPrefix(said, "TROUBLE etcd's data is damaged: "+db+": page ") || strings.Contains(said, "SERVED") {
			t.Fatalf("%s: %s", what, said)
		}
		if _, err := f.WriteAt(data[at+3:at+4], int64(at)+3); err != nil {
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

// find what in a page that is in use: in others it is what was.
func find(data []byte, what string, inUse map[int]bool) int {
	for from := 0; ; {
		at := bytes.Index(data[from:], []byte(what))
		if at < 0 {
			return -1
		}
		if at += from; inUse[at/os.Getpagesize()] {
			return at
		}
		from = at + 1
	}
}

func pagesInUse(t *testing.T, path string) map[int]bool {
	t.Helper()
	db, err := bolt.Open(path, 0, &bolt.Options{ReadOnly: true, PreLoadFreelist: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	used := map[int]bool{}
	err = db.View(func(tx *bolt.Tx) error {
		for number := 2; ; number++ {
			info, err := tx.Page(number)
			if err != nil || info == nil {
				return err
			}
			used[number] = info.Type != "free"
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return used
}
