package lb

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestTheSwitchIsWrittenByOneLoaderAtATime(t *testing.T) {
	dir := t.TempDir()
	var first, second, third turn
	if err := first.await(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	impatient, cancel := context.WithTimeout(t.Context(), turnLook/2)
	defer cancel()
	if err := second.await(impatient, dir); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("two write: %v", err)
	}
	took := make(chan error, 1)
	go func() { took <- third.await(t.Context(), dir) }()
	first.end()
	select {
	case err := <-took:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the next one does not get it")
	}
	third.end()
}
