package apitest

import "time"

// Settled is what dump returns when it has returned the same for 300 ms.
func Settled(dump func() string) string {
	last, since := dump(), time.Now()
	for time.Since(since) < 300*time.Millisecond {
		time.Sleep(20 * time.Millisecond)
		if now := dump(); now != last {
			last, since = now, time.Now()
		}
	}
	return last
}
