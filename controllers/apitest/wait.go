package apitest

import (
	"testing"
	"time"
)

// Eventually calls check until it returns an empty string, and fails the test
// with the last answer after a minute.
func Eventually(t testing.TB, check func() string) time.Duration {
	t.Helper()
	begin := time.Now()
	for {
		answer := check()
		if answer == "" {
			return time.Since(begin)
		}
		if time.Since(begin) > time.Minute {
			t.Fatalf("after %v: %s", time.Since(begin), answer)
		}
		time.Sleep(time.Millisecond)
	}
}
