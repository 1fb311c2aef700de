package apitest

import (
	"io"
	"log/slog"
	"sync"
	"testing"
)

// logTo writes to the test's output until the test ends. What outlives a test,
// such as controller-runtime's global logger, may go on to write.
func logTo(t testing.TB) slog.Handler {
	out := &output{to: t.Output()}
	t.Cleanup(out.end)
	return slog.NewTextHandler(out, nil)
}

type output struct {
	mu sync.Mutex // guards to: nil when the test has ended
	to io.Writer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.to == nil {
		return len(p), nil
	}
	return o.to.Write(p)
}

func (o *output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.to = nil
}
