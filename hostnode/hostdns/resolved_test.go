package hostdns

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"
)

func background() context.Context { return context.Background() }

// bus is a message bus with systemd-resolved on it, as far as one client can
// tell.
type bus struct {
	socket string
	refuse string // the error that calls get
	absent bool

	mu    sync.Mutex // guards calls
	calls []string
}

func startBus(t *testing.T, b *bus) *bus {
	t.Helper()
	dir, err := os.MkdirTemp("", "bus") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	b.socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", b.socket)
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				if err := b.serve(c); err != nil && !errors.Is(err, io.EOF) {
					t.Error(err)
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		running.Wait()
		os.RemoveAll(dir)
	})
	return b
}

// serve speaks D-Bus's handshake and answers calls.
func (b *bus) serve(c net.Conn) error {
	in := bufio.NewReader(c)
	if _, err := in.ReadByte(); err != nil { // the zero byte
		return err
	}
	for began := false; !began; {
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		switch words := strings.Fields(line); words[0] {
		case "AUTH":
			if len(words) == 1 {
				fmt.Fprint(c, "REJECTED EXTERNAL\r\n")
			} else {
				fmt.Fprint(c, "DATA\r\n")
			}
		case "DATA":
			fmt.Fprint(c, "OK 0123456789abcdef0123456789abcdef\r\n")
		case "BEGIN":
			began = true
		default:
			fmt.Fprint(c, "ERROR\r\n")
		}
	}
	for {
		m, err := dbus.DecodeMessage(in)
		if err != nil {
			return io.EOF
		}
		reply := &dbus.Message{Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldReplySerial: dbus.MakeVariant(m.Serial()),
		}}
		body := b.answer(m)
		if name, ok := body.(dbus.Error); ok {
			reply.Type = dbus.TypeError
			reply.Headers[dbus.FieldErrorName] = dbus.MakeVariant(name.Name)
			body = "no"
		}
		if body != nil {
			reply.Body = []any{body}
			reply.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(body))
		}
		if err := reply.EncodeTo(c, binary.LittleEndian); err != nil {
			return err
		}
	}
}

func (b *bus) answer(m *dbus.Message) any {
	member, _ := m.Headers[dbus.FieldMember].Value().(string)
	switch member {
	case "Hello":
		return ":1.7"
	case "NameHasOwner":
		return !b.absent && m.Body[0] == resolvedName
	}
	signature, _ := m.Headers[dbus.FieldSignature].Value().(dbus.Signature)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls = append(b.calls, fmt.Sprintf("%v %v %s %s %v", m.Headers[dbus.FieldDestination].Value(), m.Headers[dbus.FieldInterface].Value(), member, signature, m.Body))
	if b.refuse != "" {
		return dbus.Error{Name: b.refuse}
	}
	return nil
}

// called are the calls to systemd-resolved so far.
func (b *bus) called() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.calls)
}

func TestResolvedIsTold(t *testing.T) {
	b := startBus(t, &bus{})
	dir := etc(t, "nameserver 127.0.0.53\n")
	cfg := config(dir)
	cfg.Bus, cfg.Forwards, cfg.Upstreams = b.socket, false, nil
	if err := Check(background(), cfg); err != nil {
		t.Fatal(err)
	}
	if calls := b.called(); len(calls) != 0 {
		t.Errorf("Check called %q", calls)
	}
	if err := Ensure(background(), cfg); err != nil {
		t.Fatal(err)
	}
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	at := "org.freedesktop.resolve1 org.freedesktop.resolve1.Manager "
	want := []string{
		fmt.Sprintf("%sSetLinkDNSSEC is [%d no]", at, lo.Index),
		fmt.Sprintf("%sSetLinkDNSOverTLS is [%d no]", at, lo.Index),
		fmt.Sprintf("%sSetLinkDefaultRoute ib [%d false]", at, lo.Index),
		fmt.Sprintf("%sSetLinkDomains ia(sb) [%d [[cluster.local true]]]", at, lo.Index),
		fmt.Sprintf("%sSetLinkDNS ia(iay) [%d [[2 [10 96 0 10]]]]", at, lo.Index),
	}
	if calls := b.called(); !slices.Equal(calls, want) {
		t.Errorf("called\n%s\nwant\n%s", strings.Join(calls, "\n"), strings.Join(want, "\n"))
	}
	if err := Remove(cfg.Files, "dev"); err != nil {
		t.Error(err)
	}
	expect(t, dir, "nameserver 127.0.0.53\n")
}

func TestResolvedThatRefusesSaysWhatToRun(t *testing.T) {
	b := startBus(t, &bus{refuse: "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"})
	cfg := config(etc(t, "nameserver 127.0.0.53\n"))
	cfg.Bus = b.socket
	err := Ensure(background(), cfg)
	var mend interface{ Mend() string }
	if !errors.As(err, &mend) || !strings.Contains(mend.Mend(), "resolvectl dns lo 10.96.0.10 && resolvectl domain lo '~cluster.local'") {
		t.Errorf("got %v", err)
	}
}

func TestResolvedThatIsNotThere(t *testing.T) {
	b := startBus(t, &bus{absent: true})
	cfg := config(etc(t, "nameserver 127.0.0.53\n"))
	cfg.Bus = b.socket
	if err := Check(background(), cfg); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("got %v", err)
	}
	if err := Ensure(background(), cfg); err == nil {
		t.Error("it was told")
	}
}
