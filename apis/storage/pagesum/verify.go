package pagesum

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// ErrUnknown says that the checksums are not those of the database as it is:
// there are none, or they are of another one, or of another moment.
var ErrUnknown = errors.New("the database's checksums are not known")

// Damage of a page.
type Damage struct {
	// Page that is not what was written, and the byte that it begins at.
	Page   uint64
	Offset int64
}

func (d *Damage) Error() string {
	return fmt.Sprintf("page %d, at byte %d, is not what was written to it", d.Page, d.Offset)
}

// readAtOnce is how much of a database is read at a time.
const readAtOnce = 1 << 20

// Verify compares the database at db, which nobody has open, with the
// checksums at path. The error is a Damage, ErrUnknown, or one of reading.
//
// From now on the database may be written to without Attach. So the file loses
// what is of no use then and would look as if it were: of a commit that never
// became one, whose number the next one has; or all of it, if it is unknown.
func Verify(path, db string) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrUnknown
	}
	if err != nil {
		return err
	}
	used, err := verify(data, db)
	if errors.Is(err, ErrUnknown) {
		return errors.Join(err, forget(path))
	}
	if err == nil && used < len(data) {
		err = shorten(path, int64(used))
	}
	return err
}

func forget(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func shorten(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	return f.Sync()
}

// verify says how many bytes of data are about the database as it is.
func verify(data []byte, db string) (used int, err error) {
	id, records, ok := parseIdentity(data)
	if !ok {
		return 0, ErrUnknown
	}
	f, err := os.Open(db)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if have, err := identify(f); err != nil || have != id {
		return 0, errors.Join(ErrUnknown, err)
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	h, err := readHead(f)
	if err != nil {
		return 0, err
	}
	if all := int64(h.pages) * int64(h.pageSize); info.Size() < all {
		return 0, fmt.Errorf("it has %d bytes of %d", info.Size(), all)
	}
	want, rest, ok := sumsAt(records, h)
	if !ok {
		return 0, ErrUnknown
	}
	used = len(data) - len(rest)
	wrong, err := compare(f, h, want)
	if err != nil || len(wrong) == 0 {
		return used, err
	}
	// A commit that never became one may have written pages that are not in
	// use.
	return used, (&walk{db: f, head: h, wrong: wrong}).run()
}

// sumsAt are the pages as the commit of h left them, and the records of later
// ones.
func sumsAt(records []byte, h head) (s *sums, rest []byte, ok bool) {
	s = &sums{}
	for {
		r, rest, ok := parseRecord(records)
		if !ok {
			return nil, nil, false
		}
		s.set(r.pages)
		if r.commit == h.commit {
			return s, rest, r.sum == h.sum
		}
		records = rest
	}
}

// compare finds the pages that are not as they should be.
func compare(f io.ReaderAt, h head, want *sums) (wrong map[uint64]bool, err error) {
	wrong = map[uint64]bool{}
	err = each(f, h, func(number uint64, data []byte) {
		if number < uint64(len(want.of)) && want.known[number] && want.of[number] != sum(data) {
			wrong[number] = true
		}
	})
	return wrong, err
}

// each reads all pages but the heads.
func each(f io.ReaderAt, h head, do func(number uint64, data []byte)) error {
	size := int64(h.pageSize)
	buf := make([]byte, max(readAtOnce/size, 1)*size)
	end := int64(h.pages) * size
	for offset := 2 * size; offset < end; {
		part := buf[:min(int64(len(buf)), end-offset)]
		if _, err := f.ReadAt(part, offset); err != nil {
			return fmt.Errorf("read the database: %w", err)
		}
		for ; len(part) > 0; part = part[size:] {
			do(uint64(offset/size), part[:size])
			offset += size
		}
	}
	return nil
}
