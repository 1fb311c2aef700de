package pagesum

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
)

// magic begins the file; its last byte is the format's version.
const magic = "skiffps\x01"

const (
	fileHeadBytes = len(magic) + 3*8 + 4
	pageBytes     = 8 + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func sum(data []byte) uint32 { return crc32.Checksum(data, castagnoli) }

// page of a database with its checksum.
type page struct {
	number uint64
	sum    uint32
}

// record of a commit: the pages that it wrote.
type record struct {
	commit, sum uint64
	pages       []page
}

func (r record) append(to []byte) []byte {
	begin := len(to)
	to = append(to, make([]byte, 8)...) // length and checksum, below
	to = binary.LittleEndian.AppendUint64(to, r.commit)
	to = binary.LittleEndian.AppendUint64(to, r.sum)
	for _, p := range r.pages {
		to = binary.LittleEndian.AppendUint64(to, p.number)
		to = binary.LittleEndian.AppendUint32(to, p.sum)
	}
	payload := to[begin+8:]
	binary.LittleEndian.PutUint32(to[begin:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(to[begin+4:], sum(payload))
	return to
}

// parseRecord at the beginning of data, and what follows it; false: there is
// none that is whole.
func parseRecord(data []byte) (r record, rest []byte, ok bool) {
	if len(data) < 8 {
		return r, nil, false
	}
	length := uint64(binary.LittleEndian.Uint32(data))
	if length < 16 || (length-16)%pageBytes != 0 || length > uint64(len(data)-8) {
		return r, nil, false
	}
	payload := data[8 : 8+length]
	if sum(payload) != binary.LittleEndian.Uint32(data[4:]) {
		return r, nil, false
	}
	r.commit, r.sum = binary.LittleEndian.Uint64(payload), binary.LittleEndian.Uint64(payload[8:])
	for at := payload[16:]; len(at) > 0; at = at[pageBytes:] {
		r.pages = append(r.pages, page{binary.LittleEndian.Uint64(at), binary.LittleEndian.Uint32(at[8:])})
	}
	return r, data[8+length:], true
}

func (id identity) append(to []byte) []byte {
	begin := len(to)
	to = append(to, magic...)
	for _, v := range []uint64{id.Inode, id.Seconds, id.Nanoseconds} {
		to = binary.LittleEndian.AppendUint64(to, v)
	}
	return binary.LittleEndian.AppendUint32(to, sum(to[begin:]))
}

// parseIdentity at the beginning of a file, and what follows it.
func parseIdentity(data []byte) (id identity, rest []byte, ok bool) {
	if len(data) < fileHeadBytes || string(data[:len(magic)]) != magic ||
		sum(data[:fileHeadBytes-4]) != binary.LittleEndian.Uint32(data[fileHeadBytes-4:]) {
		return id, nil, false
	}
	at := data[len(magic):]
	id = identity{binary.LittleEndian.Uint64(at), binary.LittleEndian.Uint64(at[8:]), binary.LittleEndian.Uint64(at[16:])}
	return id, data[fileHeadBytes:], true
}

// create replaces the file at path by one with a single record, and returns it
// for appending.
func create(path string, id identity, all record, durable bool) (f *os.File, size int64, err error) {
	tmp := path + ".new"
	f, err = os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			f.Close()
			_ = os.Remove(tmp) // the error that matters is err
		}
	}()
	data := all.append(id.append(nil))
	if _, err := f.Write(data); err != nil {
		return nil, 0, err
	}
	if durable {
		if err := f.Sync(); err != nil {
			return nil, 0, err
		}
	}
	if err := os.Rename(tmp, path); err != nil {
		return nil, 0, err
	}
	if durable {
		if err := syncDir(filepath.Dir(path)); err != nil {
			return nil, 0, err
		}
	}
	return f, int64(len(data)), nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// sums of all pages that are known, by their number.
type sums struct {
	// known says which ones are.
	of    []uint32
	known []bool
}

func (s *sums) set(pages []page) {
	for _, p := range pages {
		if missing := int(p.number) + 1 - len(s.of); missing > 0 {
			s.of, s.known = slices.Grow(s.of, missing), slices.Grow(s.known, missing)
			s.of, s.known = s.of[:p.number+1], s.known[:p.number+1]
		}
		s.of[p.number], s.known[p.number] = p.sum, true
	}
}

func (s *sums) pages() []page {
	var all []page
	for n, known := range s.known {
		if known {
			all = append(all, page{uint64(n), s.of[n]})
		}
	}
	return all
}
