package storage

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/hostnode/lifeline"
	"github.com/skiff-k8s/skiff/hostnode/pki"
)

// childEnv makes the test program one member, see TestMain: members are killed
// here, and a process is what can be killed.
const childEnv = "SKIFF_TEST_MEMBER"

func TestMain(m *testing.M) {
	if name := os.Getenv(childEnv); name != "" {
		if err := child(name); err != nil {
			fmt.Println("error", strings.ReplaceAll(err.Error(), "\n", "; "))
			os.Exit(1)
		}
		os.Exit(0)
	}
	if dir := os.Getenv(beStorage); dir != "" {
		serveDamaged(dir)
		os.Exit(0)
	}
	if dir := os.Getenv(beWriter); dir != "" {
		writeUntilKilled(dir)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var memberNames = []string{"cp", "cp2", "cp3"}

// addressOf is a loopback address of a member's own: ports are fixed.
func addressOf(name string) netip.Addr {
	return netip.AddrFrom4([4]byte{127, 78, 0, byte(1 + slices.Index(memberNames, name))})
}

// child runs a member in the directory that it is started in, and writes as
// fast as the members take it; a line tells of each write.
func child(name string) error {
	ctx := context.Background()
	socket, err := os.MkdirTemp("", "sk")
	if err != nil {
		return err
	}
	defer os.RemoveAll(socket)
	r := &Replica{
		Name: name, Join: os.Getenv("JOIN") != "", Formed: filepath.Join(name, "formed"),
		CAFile: name + "/pki/etcd-peer-ca.crt", CertFile: name + "/pki/etcd-peer.crt", KeyFile: name + "/pki/etcd-peer.key",
	}
	for _, n := range memberNames {
		r.Members = append(r.Members, Member{n, addressOf(n)})
	}
	tell := func(t *Trouble) { fmt.Println("trouble", t) }
	s, err := New(Config{DataDir: filepath.Join(name, "data"), Socket: filepath.Join(socket, "s"), Replica: r, OnTrouble: tell})
	if err != nil {
		return err
	}
	const port = 2381
	l, err := net.Listen("tcp", netip.AddrPortFrom(addressOf(name), port).String())
	if err != nil {
		return err
	}
	go lifeline.New(name, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}).Run(ctx, l)
	for _, n := range memberNames {
		if n != name {
			go lifeline.Watch(ctx, netip.AddrPortFrom(addressOf(n), port), func(e lifeline.Event) {
				if e.State == lifeline.Gone {
					s.PeerGone(n)
				}
			})
		}
	}
	failed := make(chan error, 1)
	go func() { failed <- s.Run(ctx) }()
	client, err := s.Client(ctx)
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		select {
		case err := <-failed:
			return err
		default:
		}
		if _, err := client.Put(ctx, fmt.Sprintf("%s/%d", name, n), "v"); err != nil {
			fmt.Println("failed", err)
			continue
		}
		s.mu.Lock()
		leads := s.etcd.Server.Leader() == s.etcd.Server.MemberID()
		s.mu.Unlock()
		fmt.Println("wrote", n, leads)
		time.Sleep(2 * time.Millisecond)
	}
}

// running is a member as a process.
type running struct {
	name  string
	cmd   *exec.Cmd
	lines chan string
}

func startMember(t *testing.T, dir, name string, join bool) *running {
	t.Helper()
	r := &running{name: name, cmd: exec.Command(os.Args[0]), lines: make(chan string, 1<<16)}
	r.cmd.Dir = dir
	r.cmd.Env = append(os.Environ(), childEnv+"="+name)
	if join {
		r.cmd.Env = append(r.cmd.Env, "JOIN=1")
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(r.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			r.lines <- lines.Text()
		}
	}()
	t.Cleanup(func() { r.kill(); <-read })
	return r
}

// kill returns when the process has ended.
func (r *running) kill() {
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait() // once more is an error of its own
}

// told waits for a line with a word.
func (r *running) told(t *testing.T, word string) string {
	t.Helper()
	for end := time.After(patient); ; {
		select {
		case line, ok := <-r.lines:
			if !ok {
				t.Fatalf("member %s has ended", r.name)
			}
			if strings.Contains(line, word) {
				return line
			}
		case <-end:
			t.Fatalf("member %s does not tell %q", r.name, word)
		}
	}
}

// wrote waits for the next write that succeeds, and says whether the member
// led then.
func (r *running) wrote(t *testing.T, within time.Duration) bool {
	t.Helper()
	end := time.After(within)
	for {
		select {
		case line, ok := <-r.lines:
			if !ok || strings.HasPrefix(line, "error") {
				t.Fatalf("member %s: %q", r.name, line)
			}
			if strings.HasPrefix(line, "wrote") {
				return strings.HasSuffix(line, "true")
			}
		case <-end:
			t.Fatalf("member %s does not write within %v", r.name, within)
		}
	}
}

// drain forgets what was told so far.
func (r *running) drain() {
	for {
		select {
		case <-r.lines:
		default:
			return
		}
	}
}

func foundMembers(t *testing.T) (string, map[string]*running) {
	t.Helper()
	dir := t.TempDir()
	cfg := pki.Config{Dir: filepath.Join(dir, "pki"), DNSDomain: "cluster.local"}
	for _, n := range memberNames {
		cfg.Nodes = append(cfg.Nodes, pki.Node{Name: n, IPs: []netip.Addr{addressOf(n)}, ControlPlane: true, Dir: filepath.Join(dir, n, "pki")})
	}
	if _, err := pki.Ensure(cfg); err != nil {
		t.Fatal(err)
	}
	members := map[string]*running{}
	for _, n := range memberNames {
		members[n] = startMember(t, dir, n, false)
	}
	return dir, members
}

const patient = 30 * time.Second

func leaderOf(t *testing.T, members map[string]*running) string {
	t.Helper()
	for end := time.Now().Add(patient); time.Now().Before(end); {
		for name, m := range members {
			m.drain()
			if m.wrote(t, patient) {
				return name
			}
		}
	}
	t.Fatal("no leader")
	return ""
}

func TestThreeMembersLiveThroughTheDeathOfTheirLeader(t *testing.T) {
	begin := time.Now()
	dir, members := foundMembers(t)
	for _, m := range members {
		m.wrote(t, patient)
	}
	t.Logf("three members write after %v", time.Since(begin))

	var gaps []time.Duration
	for range 5 {
		leader := leaderOf(t, members)
		members[leader].kill()
		begin := time.Now()
		for name, m := range members {
			if name != leader {
				m.drain()
				m.wrote(t, patient)
			}
		}
		gaps = append(gaps, time.Since(begin))
		members[leader] = startMember(t, dir, leader, false)
		members[leader].wrote(t, patient)
	}
	slices.Sort(gaps)
	t.Logf("until both others wrote: %v", gaps)
	// Without the haste, the leader's lease alone is longer.
	if median := gaps[len(gaps)/2]; median >= replicaElectionMs*time.Millisecond {
		t.Errorf("the others write %v after their leader's death", median)
	}
}

func TestAMemberThatLostItsDataJoinsAgain(t *testing.T) {
	dir, members := foundMembers(t)
	for name, m := range members {
		m.wrote(t, patient)
		if _, err := os.Stat(filepath.Join(dir, name, "formed")); err != nil {
			t.Error(err)
		}
	}
	members["cp2"].kill()
	if err := os.RemoveAll(filepath.Join(dir, "cp2", "data")); err != nil {
		t.Fatal(err)
	}
	members["cp2"] = startMember(t, dir, "cp2", true)
	members["cp2"].wrote(t, patient)

	// It votes: with one of the others it is a majority.
	members["cp"].kill()
	for _, name := range []string{"cp2", "cp3"} {
		members[name].drain()
		members[name].wrote(t, patient)
	}
	// Alone, nobody writes.
	members["cp3"].kill()
	members["cp2"].drain()
	// etcd's own bound for a request, when its member led.
	for end := time.After(10 * time.Second); ; {
		select {
		case line := <-members["cp2"].lines:
			if strings.HasPrefix(line, "failed") {
				break
			}
			continue // told before
		case <-end:
			t.Fatal("a write without a majority neither fails nor succeeds")
		}
		break
	}
	// One back is enough.
	members["cp"] = startMember(t, dir, "cp", true) // has its data: nothing to join
	for _, name := range []string{"cp", "cp2"} {
		members[name].drain()
		members[name].wrote(t, patient)
	}
}

// damageMember flips a bit of a member's database that is in use.
func damageMember(t *testing.T, dir, name string) string {
	t.Helper()
	db := filepath.Join(dir, name, "data/member/snap/db")
	flipInUse(t, db, "cp/")
	return db
}

func TestADamagedMemberIsMadeAnewOnceTheOthersAgree(t *testing.T) {
	dir, members := foundMembers(t)
	// The database has it only after a while.
	for name := range members {
		persisted(t, filepath.Join(dir, name, "data/member/snap/db"), "cp/")
	}
	members["cp2"].kill()
	members["cp3"].kill()
	db := damageMember(t, dir, "cp2")
	before := mustRead(t, db)

	// One of the others is no majority: what is damaged may be needed.
	members["cp2"] = startMember(t, dir, "cp2", false)
	if line := members["cp2"].told(t, "trouble"); !strings.Contains(line, "data/member/snap/db: page ") {
		t.Error(line)
	}
	time.Sleep(time.Second) // enough for who does not ask
	if !bytes.Equal(mustRead(t, db), before) {
		t.Error("the database was changed")
	}

	members["cp3"] = startMember(t, dir, "cp3", false)
	for _, m := range members {
		m.drain()
		m.wrote(t, patient)
	}
	aside := filepath.Join(dir, "cp2/data/damaged")
	if !bytes.Equal(mustRead(t, filepath.Join(aside, "member/snap/db")), before) {
		t.Error("what was set aside is not what was there")
	}
	if why := string(mustRead(t, filepath.Join(aside, "trouble.json"))); !strings.Contains(why, "page ") {
		t.Errorf("why: %s", why)
	}

	// It votes, and it may be damaged again; the host may be who finds that.
	members["cp2"].kill()
	note := []byte(`{"file": "/var/lib/etcd/member/snap/db", "damaged": true, "cause": "it is not as the last stop left it"}`)
	if err := os.WriteFile(filepath.Join(dir, "cp2/data/damaged.json"), note, 0o600); err != nil {
		t.Fatal(err)
	}
	before = mustRead(t, db)
	members["cp2"] = startMember(t, dir, "cp2", false)
	members["cp2"].told(t, "as the last stop left it")
	members["cp2"].wrote(t, patient)
	if !bytes.Equal(mustRead(t, filepath.Join(aside, "member/snap/db")), before) {
		t.Error("there is more than one that was set aside, or none")
	}
	if _, err := os.Stat(filepath.Join(dir, "cp2/data/damaged.json")); !os.IsNotExist(err) {
		t.Errorf("the new member counts as damaged: %v", err)
	}
	members["cp"].kill()
	for _, name := range []string{"cp2", "cp3"} {
		members[name].drain()
		members[name].wrote(t, patient)
	}

	// Cut off when it was moved, but before the word of the host was gone.
	members["cp"] = startMember(t, dir, "cp", false)
	members["cp"].wrote(t, patient)
	members["cp2"].kill()
	if err := os.RemoveAll(filepath.Join(dir, "cp2/data/member")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cp2/data/damaged.json"), note, 0o600); err != nil {
		t.Fatal(err)
	}
	members["cp2"] = startMember(t, dir, "cp2", false)
	members["cp2"].wrote(t, patient)
	if _, err := os.Stat(filepath.Join(dir, "cp2/data/damaged.json")); !os.IsNotExist(err) {
		t.Errorf("the new member counts as damaged: %v", err)
	}
}
