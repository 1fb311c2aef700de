package pid1

import (
	"testing"
	"time"
)

func TestBackoffDoublesUntilAStableRun(t *testing.T) {
	const ms = time.Millisecond
	tests := []struct {
		name string
		ran  []time.Duration
		want []time.Duration
	}{
		{"crash loop", []time.Duration{0, 0, 0, 0}, []time.Duration{10 * ms, 20 * ms, 40 * ms, 80 * ms}},
		{"ends at the most", make([]time.Duration, 12), []time.Duration{
			10 * ms, 20 * ms, 40 * ms, 80 * ms, 160 * ms, 320 * ms, 640 * ms, 1280 * ms, 2560 * ms, 5120 * ms, 10 * time.Second, 10 * time.Second}},
		{"a stable run starts over", []time.Duration{0, 0, 10 * time.Second, 0}, []time.Duration{10 * ms, 20 * ms, 10 * ms, 20 * ms}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var b Backoff
			for i, ran := range tt.ran {
				if got := b.After(ran); got != tt.want[i] {
					t.Errorf("restart %d: got %v, want %v", i, got, tt.want[i])
				}
			}
		})
	}
}
