package lifeline

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

var local = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// serve runs a server at address, a free one if it is zero, until the returned
// function is called.
func serve(t *testing.T, s *Server, address netip.AddrPort) (netip.AddrPort, func()) {
	t.Helper()
	if !address.IsValid() {
		address = netip.MustParseAddrPort("127.0.0.1:0")
	}
	l, err := net.Listen("tcp", address.String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, l) }()
	return netip.MustParseAddrPort(l.Addr().String()), func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func next(t *testing.T, events <-chan Event) Event {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(2 * silence):
		t.Fatal("nothing is told")
		return Event{}
	}
}

func TestAWatcherIsToldOfEveryChangeAtOnce(t *testing.T) {
	first := New("cp1_a", local)
	at, end := serve(t, first, netip.AddrPort{})
	events := make(chan Event, 16)
	ctx, cancel := context.WithCancel(t.Context())
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		Watch(ctx, at, func(e Event) { events <- e })
	}()
	defer func() {
		cancel()
		<-watched
	}()
	expect := func(want Event) {
		t.Helper()
		if got := next(t, events); got != want {
			t.Errorf("told %v of %q, want %v of %q", got.State, got.Identity, want.State, want.Identity)
		}
	}
	expect(Event{Away, "cp1_a"})
	begin := time.Now()
	first.SetServing(true)
	expect(Event{Serving, "cp1_a"})
	end()
	expect(Event{Gone, "cp1_a"})
	if took := time.Since(begin); took > beat {
		t.Errorf("two changes took %v", took)
	}
	second := New("cp1_b", local)
	_, end = serve(t, second, at)
	defer end()
	expect(Event{Away, "cp1_b"})
}

func TestAProcessThatStandsStillIsSilentAndNotGone(t *testing.T) {
	// The kernel takes connections for it.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []Event
	Watch(ctx, netip.MustParseAddrPort(l.Addr().String()), func(e Event) {
		got = append(got, e)
		cancel()
	})
	if len(got) != 1 || got[0].State != Silent {
		t.Errorf("told %v", got)
	}
}

// beWatcher makes the test program watch that address and tell what it is
// told: a process is what can be stopped.
const beWatcher = "SKIFF_TEST_WATCH"

func TestMain(m *testing.M) {
	if at := os.Getenv(beWatcher); at != "" {
		Watch(context.Background(), netip.MustParseAddrPort(at), func(e Event) { fmt.Println(e.State) })
	}
	os.Exit(m.Run())
}

func TestAWatcherThatStoodStillTakesNobodyForSilent(t *testing.T) {
	s := New("cp1_a", local)
	s.SetServing(true)
	at, end := serve(t, s, netip.AddrPort{})
	watcher := exec.Command(os.Args[0])
	watcher.Env = append(os.Environ(), beWatcher+"="+at.String())
	out, err := watcher.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := watcher.Start(); err != nil {
		t.Fatal(err)
	}
	defer watcher.Wait() //nolint:errcheck // killed
	defer watcher.Process.Kill()
	told := bufio.NewScanner(out)
	expect := func(want State) {
		t.Helper()
		if !told.Scan() || told.Text() != want.String() {
			t.Errorf("told %q, want %v", told.Text(), want)
		}
	}
	expect(Serving)
	if err := watcher.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(silence + beat)
	if err := watcher.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	time.Sleep(beat)
	end()
	expect(Gone)
}

func TestStrangersAreNotAnswered(t *testing.T) {
	s := New("cp1_a", []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")})
	at, end := serve(t, s, netip.AddrPort{})
	defer end()
	if state, identity := Ask(t.Context(), at, time.Second); identity != "" || state == Serving || state == Away {
		t.Errorf("told %v of %q", state, identity)
	}
}

func TestAskTellsStates(t *testing.T) {
	s := New("cp1_a", local)
	at, end := serve(t, s, netip.AddrPort{})
	if state, identity := Ask(t.Context(), at, time.Second); state != Away || identity != "cp1_a" {
		t.Errorf("a server that does not serve yet: %v of %q", state, identity)
	}
	s.SetServing(true)
	if state, _ := Ask(t.Context(), at, time.Second); state != Serving {
		t.Errorf("a server that serves: %v", state)
	}
	end()
	if state, _ := Ask(t.Context(), at, time.Second); state != Gone {
		t.Errorf("nobody: %v", state)
	}
}

func TestTheDialerGoesToTheFirstThatServes(t *testing.T) {
	// Three machines on loopback addresses, with the fixed lifeline port.
	machine := func(address string, serving bool) (netip.AddrPort, func()) {
		api, err := net.Listen("tcp", address+":0")
		if err != nil {
			t.Fatal(err)
		}
		s := New(address, local)
		s.SetServing(serving)
		_, end := serve(t, s, netip.AddrPortFrom(netip.MustParseAddr(address), lifelinePort))
		return netip.MustParseAddrPort(api.Addr().String()), func() { api.Close(); end() }
	}
	away, endAway := machine("127.77.0.1", false)
	defer endAway()
	second, endSecond := machine("127.77.0.2", true)
	third, endThird := machine("127.77.0.3", true)
	defer endThird()
	d := &Dialer{Servers: []netip.AddrPort{away, second, third}}
	dial := func() string {
		conn, err := d.Dial(t.Context(), "tcp", "ignored:1")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.RemoteAddr().String()
	}
	if got := dial(); got != second.String() {
		t.Errorf("connected to %s, want %s", got, second)
	}
	endSecond()
	time.Sleep(fresh)
	if got := dial(); got != third.String() {
		t.Errorf("after the second one's end connected to %s, want %s", got, third)
	}
}
