package pid1

import "time"

// Backoff spaces the restarts of a program that keeps ending. The zero value
// is ready.
//
// The first restart comes after 10 ms, since a lone crash should cost nothing;
// each further one waits twice as long, up to 10 s, until the program has
// once run for 10 s.
type Backoff struct{ next time.Duration }

const (
	firstDelay = 10 * time.Millisecond
	mostDelay  = 10 * time.Second
	stableRun  = 10 * time.Second
)

// Stable says that a program has run so long that its earlier ends do not count
// any more.
func Stable(ran time.Duration) bool { return ran >= stableRun }

// After says how long to wait before the restart of a program that ran for
// the given time.
func (b *Backoff) After(ran time.Duration) time.Duration {
	if Stable(ran) {
		b.next = 0
	}
	delay := max(b.next, firstDelay)
	b.next = min(2*delay, mostDelay)
	return delay
}
