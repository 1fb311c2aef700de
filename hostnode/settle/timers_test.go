package settle

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestMonitorThread(t *testing.T) {
	for name, test := range map[string]struct {
		threads []int
		want    int
	}{
		"the first after the main thread":      {[]int{100, 103, 101, 109}, 101},
		"a process of one thread has none":     {[]int{100}, 0},
		"ids that wrapped around tell nothing": {[]int{100, 7, 120}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := monitorThread(test.threads, 100); got != test.want {
				t.Errorf("monitorThread(%v, 100) = %d, want %d", test.threads, got, test.want)
			}
		})
	}
}

// Every thread but the runtime's monitor gets the slack.
func TestTimersSetsSlack(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to write other threads' slack")
	}
	const slack = 7 * time.Millisecond
	if err := Timers(slack); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	set, kept := 0, 0
	for _, e := range entries {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%s/timerslack_ns", e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if strings.TrimSpace(string(data)) == strconv.FormatInt(slack.Nanoseconds(), 10) {
			set++
		} else {
			kept++
		}
	}
	if set == 0 || kept != 1 {
		t.Errorf("%d threads have the slack and %d do not; want all but one to have it", set, kept)
	}
}
