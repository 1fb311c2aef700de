package pagesum

import (
	"encoding/binary"
	"fmt"
	"io"
)

// The layout of bbolt's pages, internal/common/page.go and bucket.go.
const (
	pageHeadBytes = 16
	elementBytes  = 16
	branchPage    = 0x01
	leafPage      = 0x02
	// bucketElement is an element of a leaf whose value begins with the root of
	// another tree; 0: that is in the value.
	bucketElement = 0x01
	noFreeList    = ^uint64(0)
)

// walk goes through the pages in use, to the first one that is wrong. It reads
// none that is.
type walk struct {
	db    io.ReaderAt
	head  head
	wrong map[uint64]bool
}

// run returns a Damage, or nil when no wrong page is in use.
func (w *walk) run() error {
	if w.head.free != noFreeList {
		if _, err := w.page(w.head.free); err != nil {
			return err
		}
	}
	return w.visit(w.head.root)
}

func (w *walk) visit(number uint64) error {
	data, err := w.page(number)
	if err != nil {
		return err
	}
	flags, count := binary.LittleEndian.Uint16(data[8:]), int(binary.LittleEndian.Uint16(data[10:]))
	if pageHeadBytes+count*elementBytes > len(data) {
		return fmt.Errorf("page %d has no room for its %d elements", number, count)
	}
	for i := range count {
		at := pageHeadBytes + i*elementBytes
		next := uint64(0)
		switch {
		case flags&branchPage != 0:
			next = binary.LittleEndian.Uint64(data[at+8:])
		case flags&leafPage != 0 && binary.LittleEndian.Uint32(data[at:])&bucketElement != 0:
			value := at + int(binary.LittleEndian.Uint32(data[at+4:])) + int(binary.LittleEndian.Uint32(data[at+8:]))
			if value+8 > len(data) {
				return fmt.Errorf("page %d has no room for a bucket", number)
			}
			next = binary.LittleEndian.Uint64(data[value:])
		}
		if next == 0 {
			continue
		}
		if err := w.visit(next); err != nil {
			return err
		}
	}
	return nil
}

// page reads a page with those that belong to it.
func (w *walk) page(number uint64) ([]byte, error) {
	size := int64(w.head.pageSize)
	damage := func(n uint64) error { return &Damage{Page: n, Offset: int64(n) * size} }
	if w.wrong[number] {
		return nil, damage(number)
	}
	data := make([]byte, size)
	if _, err := w.db.ReadAt(data, int64(number)*size); err != nil {
		return nil, fmt.Errorf("read page %d: %w", number, err)
	}
	more := uint64(binary.LittleEndian.Uint32(data[12:]))
	if number+more >= w.head.pages {
		return nil, fmt.Errorf("page %d ends behind the last one", number)
	}
	for n := number + 1; n <= number+more; n++ {
		if w.wrong[n] {
			return nil, damage(n)
		}
	}
	if more > 0 {
		data = make([]byte, int64(more+1)*size)
		if _, err := w.db.ReadAt(data, int64(number)*size); err != nil {
			return nil, fmt.Errorf("read page %d: %w", number, err)
		}
	}
	return data, nil
}
