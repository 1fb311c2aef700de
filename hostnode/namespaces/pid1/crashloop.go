package pid1

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// crashLoopFrom is how many ends in a row, none after a stable run, make a
// crash loop: one is an accident, and two are somebody who looks at it.
const crashLoopFrom = 3

// CrashLoop counts the ends of one service, or of a machine.
//
//	quiet → (ends crashLoopFrom times in a row) → told → (stable run) → quiet
type CrashLoop struct {
	// file is there while it is told.
	file string
	told bool
	loop machine.CrashLoop
}

// NewCrashLoop has a file for those that want to know; an empty service is the
// machine. It touches nothing.
func NewCrashLoop(file, service string) CrashLoop {
	return CrashLoop{file: file, loop: machine.CrashLoop{Service: service}}
}

// Ended counts an end, after a run of that time, and tells of a loop.
func (c *CrashLoop) Ended(ran time.Duration, now time.Time, last string) error {
	if Stable(ran) || c.loop.Ended == 0 {
		c.loop.Ended, c.loop.Since = 0, now.UTC()
	}
	c.loop.Ended++
	c.loop.Last = last
	if c.loop.Ended < crashLoopFrom {
		c.told = false
		return c.remove() // what was told of an earlier loop
	}
	data, err := json.Marshal(c.loop)
	if err != nil {
		return fmt.Errorf("write %s: %w", c.file, err)
	}
	// Readers have the old one or the new one.
	if err := os.WriteFile(c.file+".new", data, 0o644); err != nil {
		return err
	}
	c.told = true
	return os.Rename(c.file+".new", c.file)
}

// End forgets the ends.
func (c *CrashLoop) End() error {
	c.told, c.loop.Ended = false, 0
	return c.remove()
}

func (c *CrashLoop) remove() error {
	if err := os.Remove(c.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
