package pagesum

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"go.etcd.io/etcd/server/v3/storage/schema"
)

// BenchmarkVerify is what each start pays for a database of 20 MB, and
// BenchmarkCommit each commit of one key, of which etcd makes ten a second at
// most.
func BenchmarkVerify(b *testing.B) {
	l := large(b)
	l.close()
	for b.Loop() {
		if err := Verify(l.sums, l.db); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCommit(b *testing.B) {
	for _, kept := range []bool{false, true} {
		b.Run(fmt.Sprintf("checksums=%v", kept), func(b *testing.B) {
			l := large(b)
			if _, write, err := seam(l.be); err != nil {
				b.Fatal(err)
			} else if !kept {
				f, err := os.OpenFile(l.db, os.O_RDWR, 0)
				if err != nil {
					b.Fatal(err)
				}
				defer f.Close()
				defer l.close()
				*write = f.WriteAt
			}
			n := 0
			for b.Loop() {
				tx := l.be.BatchTx()
				tx.LockOutsideApply()
				tx.UnsafePut(schema.Key, key(1_000_000+n), bytes.Repeat([]byte("v"), 500))
				tx.Unlock()
				l.be.ForceCommit()
				n++
			}
		})
	}
}

func large(b *testing.B) *lab {
	b.Helper()
	l := newLab(b)
	tx := l.be.BatchTx()
	for i := range 20_000 {
		tx.LockOutsideApply()
		tx.UnsafePut(schema.Key, key(i), bytes.Repeat([]byte("v"), 900))
		tx.Unlock()
	}
	l.be.ForceCommit()
	return l
}
