package settle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"time"
)

// Timers lets the kernel fire the process's timers up to slack late, so that
// those that are close to one another cost one wake-up (timerslack_ns of
// proc(5)). Informers, caches and work queues of Kubernetes have hundreds of
// periodic timers a process, each of which would wake it alone. What is not a
// timer (a packet, a file, another goroutine) is as prompt as before.
//
// It is for processes of which a timer is no promise below slack; threads made
// later inherit it. The runtime's monitor keeps its own pace: it takes the
// processor away from goroutines that block in the kernel.
func Timers(slack time.Duration) error {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("coalesce timers: %w", err)
	}
	threads := make([]int, 0, len(entries))
	for _, e := range entries {
		id, err := strconv.Atoi(e.Name())
		if err != nil {
			return fmt.Errorf("coalesce timers: thread %q: %w", e.Name(), err)
		}
		threads = append(threads, id)
	}
	monitor := monitorThread(threads, os.Getpid())
	value := []byte(strconv.FormatInt(slack.Nanoseconds(), 10))
	for _, id := range threads {
		if id == monitor {
			continue
		}
		err := os.WriteFile(fmt.Sprintf("/proc/%d/timerslack_ns", id), value, 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // it may have ended
			return fmt.Errorf("coalesce timers: %w", err)
		}
	}
	return nil
}

// monitorThread is the first thread that the runtime makes after the main one
// (runtime.main starts sysmon before anything else); 0 if it cannot be told
// because thread ids have wrapped around.
func monitorThread(threads []int, main int) int {
	first := 0
	for _, id := range threads {
		switch {
		case id < main:
			return 0
		case id > main && (first == 0 || id < first):
			first = id
		}
	}
	return first
}
