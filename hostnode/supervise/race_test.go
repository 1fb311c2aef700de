//go:build race

package supervise

// slow says how much the race detector slows commands down.
const slow = 5
