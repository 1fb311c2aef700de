package storage

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap/zapcore"
)

// startEtcd is embed.StartEtcd, which ends the process or panics about files
// that it cannot read: that becomes a Trouble here.
func startEtcd(cfg *embed.Config) (etcd *embed.Etcd, err error) {
	// A page of the database that is not there is a signal otherwise.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			etcd, err = nil, troubleWith(cfg.Dir, asError(r))
		}
	}()
	return embed.StartEtcd(cfg)
}

func asError(r any) error {
	if err, ok := r.(error); ok {
		return err
	}
	return fmt.Errorf("%v", r)
}

// lastWord tells of what etcd ends the process for, by logging it, wherever in
// etcd that is.
type lastWord struct {
	dir  string
	tell func(*Trouble)
	// then ends the process, or what of it there is to end.
	then func(error)
}

// OnWrite is called by zap after the entry was logged. It does not return.
func (w lastWord) OnWrite(entry *zapcore.CheckedEntry, fields []zapcore.Field) {
	err := errors.New(entry.Message)
	for _, f := range fields {
		if cause, ok := f.Interface.(error); ok && f.Type == zapcore.ErrorType {
			err = fmt.Errorf("%s: %w", entry.Message, cause)
		}
	}
	w.tell(troubleWith(w.dir, err))
	w.then(err)
}

func exit(error) { os.Exit(1) }

func throw(err error) { panic(err) }
