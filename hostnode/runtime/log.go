package runtime

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"

	"github.com/sirupsen/logrus"
	bolt "go.etcd.io/bbolt/errors"
)

// redirectLog sends containerd's log, which is logrus' global one, to ours.
func redirectLog(to *slog.Logger) {
	logger := logrus.StandardLogger()
	logger.SetOutput(io.Discard)
	logger.SetFormatter(discard{})
	logger.SetLevel(logrus.WarnLevel)
	if to.Enabled(context.Background(), slog.LevelDebug) {
		logger.SetLevel(logrus.DebugLevel)
	}
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
	if expected(entry) {
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
func expected(entry *logrus.Entry) bool {
	// The collector's last run meets a closed database when a node stops.
	if err, ok := entry.Data[logrus.ErrorKey].(error); ok && errors.Is(err, bolt.ErrDatabaseNotOpen) {
		return true
	}
	for _, prefix := range []string{
		// Our symlinks, at every start of a node with pods; see sandbox.makeFiles.
		"Invalid file ",
		// Chosen in serverConfig.
		"using async mode for boltdb",
		// Not every file system has it.
		"failed check for fsverity support",
	} {
		if strings.HasPrefix(entry.Message, prefix) {
			return true
		}
	}
	return false
}
