package runtime

import (
	"context"
	"io"
	"log/slog"
	"strings"

	"github.com/sirupsen/logrus"
)

// redirectLog sends containerd's log, which is logrus' global one, to ours.
func redirectLog(to *slog.Logger) {
	logger := logrus.StandardLogger()
	logger.SetOutput(io.Discard)
	logger.SetFormatter(discard{})
	level := logrus.WarnLevel
	switch {
	case to.Enabled(context.Background(), slog.LevelDebug):
		level = logrus.DebugLevel
	case to.Enabled(context.Background(), slog.LevelInfo):
		level = logrus.InfoLevel
	}
	logger.SetLevel(level)
	logger.ReplaceHooks(logrus.LevelHooks{})
	logger.AddHook(logHook{to.With("component", "containerd")})
}

// discard formats nothing: the hook has the entry.
type discard struct{}

func (discard) Format(*logrus.Entry) ([]byte, error) { return nil, nil }

type logHook struct{ to *slog.Logger }

func (logHook) Levels() []logrus.Level { return logrus.AllLevels }

func (h logHook) Fire(entry *logrus.Entry) error {
	level := slog.LevelDebug
	switch {
	case entry.Level <= logrus.ErrorLevel:
		level = slog.LevelError
	case entry.Level == logrus.WarnLevel:
		level = slog.LevelWarn
	case entry.Level == logrus.InfoLevel:
		// containerd tells of every plugin and every call on this level;
		// "something changed" is the kubelet's to tell.
		level = slog.LevelDebug
	}
	if expected(entry.Message) {
		level = slog.LevelDebug
	}
	ctx := entry.Context
	if ctx == nil {
		ctx = context.Background()
	}
	if !h.to.Enabled(ctx, level) {
		return nil
	}
	attrs := make([]slog.Attr, 0, len(entry.Data))
	for key, value := range entry.Data {
		attrs = append(attrs, slog.Any(key, value))
	}
	h.to.LogAttrs(ctx, level, entry.Message, attrs...)
	return nil
}

// expected says that containerd warns of something that is as it should be.
func expected(message string) bool {
	for _, prefix := range []string{
		// Our symlinks, at every start of a node with pods; see sandbox.makeFiles.
		"Invalid file ",
		// Chosen in serverConfig.
		"using async mode for boltdb",
		// Not every file system has it.
		"failed check for fsverity support",
	} {
		if strings.HasPrefix(message, prefix) {
			return true
		}
	}
	return false
}
