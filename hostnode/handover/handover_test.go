package handover

import (
	"fmt"
	"io"
	"net"
	"testing"
)

func TestFilesRefusesMalformedEntries(t *testing.T) {
	for _, env := range []string{"apiserver", "apiserver=", "apiserver=x", "=4", "apiserver=1"} {
		if _, err := Files(env); err == nil {
			t.Errorf("Files(%q): no error", env)
		}
	}
	files, err := Files("")
	if err != nil || len(files) != 0 {
		t.Errorf(`Files("") = %v, %v`, files, err)
	}
}

func TestHandedOverListenerAccepts(t *testing.T) {
	original, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer original.Close()
	f, err := original.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	// Files takes ownership of the descriptor, as a service would.
	files, err := Files(fmt.Sprintf("apiserver=%d", f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listener(files["apiserver"])
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	original.Close()
	go func() {
		c, err := l.Accept()
		if err == nil {
			fmt.Fprint(c, "hello")
			c.Close()
		}
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil || string(got) != "hello" {
		t.Errorf("read %q, %v", got, err)
	}
}
