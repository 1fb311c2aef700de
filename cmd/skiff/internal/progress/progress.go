package progress

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Style says how steps are shown.
type Style int

// The styles.
const (
	// Plain prints a line for each step when it ends.
	Plain Style = iota
	// Terminal shows the step under way with a spinner, and uses colours.
	Terminal
	// Quiet prints nothing.
	Quiet
)

// Steps is one operation. At most one step is under way.
type Steps struct {
	out   io.Writer
	style Style
	now   func() time.Time

	// mu guards the fields below and everything written to out.
	mu      sync.Mutex
	current string
	began   time.Time
	stop    chan struct{}
	stopped chan struct{}
}

// New returns Steps that write to out; now is the clock.
func New(out io.Writer, style Style, now func() time.Time) *Steps {
	return &Steps{out: out, style: style, now: now}
}

// frames of the spinner, one each tenth of a second.
var frames = []string{"⠈⠁", "⠈⠑", "⠈⠱", "⠈⡱", "⢀⡱", "⢄⡱", "⢄⡱", "⢆⡱", "⢎⡱", "⢎⡰", "⢎⡠", "⢎⡀", "⢎⠁", "⠎⠁", "⠊⠁"}

const (
	framePeriod = 100 * time.Millisecond
	clearLine   = "\r\x1b[K"
)

// Println prints a line, between steps or above the one under way.
func (s *Steps) Println(format string, args ...any) {
	if s.style == Quiet {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != "" && s.style == Terminal {
		fmt.Fprint(s.out, clearLine)
	}
	fmt.Fprintf(s.out, format+"\n", args...)
}

// Start ends the step under way, if any, as done, and begins another.
func (s *Steps) Start(step string) {
	s.End(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current, s.began = step, s.now()
	if s.style == Terminal {
		s.stop, s.stopped = make(chan struct{}), make(chan struct{})
		go s.spin(s.stop, s.stopped)
	}
}

// End ends the step under way: done when err is nil.
func (s *Steps) End(err error) {
	s.mu.Lock()
	step, stop, stopped := s.current, s.stop, s.stopped
	s.current, s.stop = "", nil
	s.mu.Unlock()
	if step == "" {
		return
	}
	if stop != nil {
		close(stop)
		<-stopped
	}
	if s.style == Quiet {
		return
	}
	took := s.now().Sub(s.began)
	mark, before := "✓", ""
	if err != nil {
		mark = "✗"
	}
	if s.style == Terminal {
		before = clearLine
		mark = map[bool]string{true: "\x1b[32m✓\x1b[0m", false: "\x1b[31m✗\x1b[0m"}[err == nil]
	}
	fmt.Fprintf(s.out, "%s %s %s %s\n", before, mark, step, Seconds(took))
}

// Done prints a ticked line that is no step of its own.
func (s *Steps) Done(format string, args ...any) {
	s.End(nil)
	mark := "✓"
	if s.style == Terminal {
		mark = "\x1b[32m✓\x1b[0m"
	}
	s.Println(" "+mark+" "+format, args...)
}

// spin repaints the line of the current step until stop is closed.
func (s *Steps) spin(stop, stopped chan struct{}) {
	defer close(stopped)
	tick := time.NewTicker(framePeriod)
	defer tick.Stop()
	for i := 0; ; i++ {
		s.mu.Lock()
		if s.current != "" {
			fmt.Fprintf(s.out, "%s %s %s ", clearLine, frames[i%len(frames)], s.current)
		}
		s.mu.Unlock()
		select {
		case <-stop:
			return
		case <-tick.C:
		}
	}
}

// Seconds is a duration as steps show it: 0.04s, 12.3s, 2m5s.
func Seconds(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.2fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Seconds())
	default:
		return d.Round(time.Second).String()
	}
}
