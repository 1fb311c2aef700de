package storage

import (
	"context"
	"log/slog"

	"go.uber.org/zap/zapcore"
)

// logCore hands etcd's log to slog's default logger, one level lower than
// etcd sees it: its warnings include "stopped grpc server" and its errors the
// closing of its own listeners. After quiet ends it says nothing at all.
type logCore struct {
	quiet  context.Context
	fields []zapcore.Field
}

var levels = map[zapcore.Level]slog.Level{
	zapcore.WarnLevel:   slog.LevelInfo,
	zapcore.ErrorLevel:  slog.LevelWarn,
	zapcore.DPanicLevel: slog.LevelError,
	zapcore.PanicLevel:  slog.LevelError,
	zapcore.FatalLevel:  slog.LevelError,
}

func (c logCore) Enabled(level zapcore.Level) bool {
	to, ok := levels[level]
	return ok && c.quiet.Err() == nil && slog.Default().Enabled(context.Background(), to)
}

func (c logCore) With(fields []zapcore.Field) zapcore.Core {
	c.fields = append(c.fields[:len(c.fields):len(c.fields)], fields...)
	return c
}

func (c logCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(entry.Level) {
		return checked.AddCore(entry, c)
	}
	return checked
}

func (c logCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	values := zapcore.NewMapObjectEncoder()
	for _, f := range c.fields {
		f.AddTo(values)
	}
	for _, f := range fields {
		f.AddTo(values)
	}
	args := make([]any, 0, 2*len(values.Fields)+2)
	args = append(args, "component", "etcd")
	for key, value := range values.Fields {
		args = append(args, key, value)
	}
	slog.Default().Log(context.Background(), levels[entry.Level], entry.Message, args...)
	return nil
}

func (c logCore) Sync() error { return nil }
