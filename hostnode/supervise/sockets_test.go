package supervise

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

func TestAKeptPortIsWaitedForWhileItsOwnerDies(t *testing.T) {
	owner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := socket{network: "tcp", address: owner.Addr().String(), portField: "networking.apiServerPort"}
	time.AfterFunc(5*dyingRetry, func() { owner.Close() })
	f, err := openKept(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()

	// Nobody lets go of it now.
	_, err = openKept(t.Context(), s)
	var refusal *Refusal
	if !errors.As(err, &refusal) || refusal.Field != s.portField || !strings.Contains(refusal.Help, "while it was stopped") {
		t.Errorf("a port that stays taken: %v", err)
	}
}
