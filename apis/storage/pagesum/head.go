package pagesum

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// boltMagic and boltVersion begin a head; bbolt's internal/common/types.go.
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2
)

// head is what a page 0 or 1 of bbolt says: internal/common/meta.go, behind
// the 16 bytes that each page begins with.
type head struct {
	pageSize int
	// root is the page that leads to all others in use, but for the list of
	// free ones, if there is one.
	root, free uint64
	// pages is how many the database has, with free ones.
	pages  uint64
	commit uint64
	// sum is bbolt's own, over the head.
	sum uint64
}

const headBytes = 80

// parseHead of a page; false: it is none, or damaged.
func parseHead(page []byte) (head, bool) {
	if len(page) < headBytes || binary.LittleEndian.Uint32(page[16:]) != boltMagic || binary.LittleEndian.Uint32(page[20:]) != boltVersion {
		return head{}, false
	}
	h := head{
		pageSize: int(binary.LittleEndian.Uint32(page[24:])),
		root:     binary.LittleEndian.Uint64(page[32:]),
		free:     binary.LittleEndian.Uint64(page[48:]),
		pages:    binary.LittleEndian.Uint64(page[56:]),
		commit:   binary.LittleEndian.Uint64(page[64:]),
		sum:      binary.LittleEndian.Uint64(page[72:]),
	}
	check := fnv.New64a()
	check.Write(page[16:72])
	return h, check.Sum64() == h.sum && h.pageSize >= headBytes
}

// readHead is the newer one of the two, as bbolt takes it.
func readHead(db io.ReaderAt) (head, error) {
	first := make([]byte, headBytes)
	if _, err := db.ReadAt(first, 0); err != nil {
		return head{}, fmt.Errorf("read the database's head: %w", err)
	}
	newest, ok := parseHead(first)
	// Where the second one is, only a good first one tells; else it is as
	// everywhere on this host.
	size := os.Getpagesize()
	if ok {
		size = newest.pageSize
	}
	second := make([]byte, headBytes)
	if _, err := db.ReadAt(second, int64(size)); err != nil {
		return head{}, fmt.Errorf("read the database's head: %w", err)
	}
	if h, good := parseHead(second); good && (!ok || h.commit > newest.commit) {
		newest, ok = h, true
	}
	if !ok {
		return head{}, errors.New("neither of the database's heads is one")
	}
	return newest, nil
}

// identity of a file, which no other one has, or has had: inodes are used
// again.
type identity struct {
	Inode, Seconds, Nanoseconds uint64
}

func identify(f *os.File) (identity, error) {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return identity{}, fmt.Errorf("identify %s: %w", f.Name(), err)
	}
	return identity{st.Ino, uint64(st.Btime.Sec), uint64(st.Btime.Nsec)}, nil
}
