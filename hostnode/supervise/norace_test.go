//go:build !race

package supervise

const slow = 1
