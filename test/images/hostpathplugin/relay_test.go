package main

import (
	"io"
	"net"
	"path/filepath"
	"testing"
)

func TestJoinPairsInOrderAndEndsBoth(t *testing.T) {
	callers, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	suite, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- join(callers, suite) }()

	for range 2 {
		driver := dial(t, suite.Addr())
		caller := dial(t, callers.Addr())
		for _, way := range []struct{ from, to net.Conn }{{caller, driver}, {driver, caller}} {
			if _, err := way.from.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 5)
			if _, err := io.ReadFull(way.to, got); err != nil || string(got) != "hello" {
				t.Fatalf("got %q, %v", got, err)
			}
		}
		driver.Close()
		if n, err := caller.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("caller read %d, %v after the driver's end, want EOF", n, err)
		}
	}
	callers.Close()
	if err := <-ended; err == nil {
		t.Error("join ended without an error")
	}
}

func dial(t *testing.T, a net.Addr) net.Conn {
	t.Helper()
	c, err := net.Dial(a.Network(), a.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
