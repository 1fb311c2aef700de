package pid1

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

const (
	// logMost is the size in bytes at which a log is moved to "<name>.1".
	logMost = 16 << 20
	// logCheck is how often sizes are looked at. Services write their logs
	// themselves, so that a line costs no wake-up of init and survives it;
	// the kernel has no event for "a file has grown past".
	logCheck = 10 * time.Second
)

// openLog opens a service's log for appending.
func openLog(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o640)
}

// Rotate copies the log f to "<its path>.1" and empties it when it is too
// large. The writers keep their descriptors, so it cannot be renamed; they
// must append.
func Rotate(f *os.File) error { return rotate(f, logMost) }

func rotate(f *os.File, most int64) error {
	info, err := f.Stat()
	if err != nil || info.Size() <= most {
		return err
	}
	old, err := os.OpenFile(f.Name()+".1", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	// Twice, as what was written during the long first copy would be lost.
	var from int64
	for range 2 {
		n, copyErr := io.Copy(old, io.NewSectionReader(f, from, 1<<62))
		from += n
		err = errors.Join(err, copyErr)
	}
	if err := errors.Join(err, f.Truncate(0), old.Close()); err != nil {
		return fmt.Errorf("rotate %s: %w", f.Name(), err)
	}
	return nil
}
