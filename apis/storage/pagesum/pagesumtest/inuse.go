// Package pagesumtest tells tests which bytes of a database matter.
package pagesumtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	bolt "go.etcd.io/bbolt"
)

// InUse says of each page of a database that nobody has open whether it is in
// use, by bbolt's own word: in others is what once was.
func InUse(path string) (used map[uint64]bool, err error) {
	db, err := bolt.Open(path, 0, &bolt.Options{ReadOnly: true, PreLoadFreelist: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	used = map[uint64]bool{}
	return used, db.View(func(tx *bolt.Tx) error {
		for number := 2; ; number++ {
			info, err := tx.Page(number)
			if err != nil || info == nil {
				return err
			}
			used[uint64(number)] = info.Type != "free"
		}
	})
}

// Find is where a text is in a page in use.
func Find(path, text string) (int64, error) {
	used, err := InUse(path)
	if err != nil {
		return 0, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for from := 0; ; {
		at := bytes.Index(data[from:], []byte(text))
		if at < 0 {
			return 0, fmt.Errorf("%s: no %q in a page in use", path, text)
		}
		if at += from; used[uint64(at/os.Getpagesize())] {
			return int64(at), nil
		}
		from = at + 1
	}
}

// Flip one bit of the byte at an offset, in place: another file has no
// checksums. Once more, and it is as it was.
func Flip(path string, at int64) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	one := make([]byte, 1)
	if _, err := f.ReadAt(one, at); err != nil {
		return err
	}
	one[0] ^= 0x20
	_, err = f.WriteAt(one, at)
	return err
}
