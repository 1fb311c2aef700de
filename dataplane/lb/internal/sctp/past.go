// Package sctp has the constants with which the packet programs correct
// SCTP's checksum (dataplane/bpf/lb_sctp.h).
package sctp

import (
	"fmt"
	"hash/crc32"

	"github.com/cilium/ebpf"
)

// Matrix is a linear map of CRCs: what it makes of each value of each four
// bits, the lowest first.
type Matrix [8][16]uint32

// apply maps a CRC.
func (m *Matrix) apply(crc uint32) uint32 {
	var out uint32
	for k := range m {
		out ^= m[k][crc>>(4*k)&15]
	}
	return out
}

// matrix is a linear map as a Matrix.
func matrix(of func(uint32) uint32) (m Matrix) {
	for k := range m {
		for x := range m[k] {
			m[k][x] = of(uint32(x) << (4 * k))
		}
	}
	return m
}

// Past is, for each power of two up to 32768, the map that moves a CRC32c
// past so many bytes of zeros.
func Past() (all [16]Matrix) {
	table := crc32.MakeTable(crc32.Castagnoli)
	all[0] = matrix(func(crc uint32) uint32 { return table[byte(crc)] ^ crc>>8 })
	for i := 1; i < len(all); i++ {
		half := &all[i-1]
		all[i] = matrix(func(crc uint32) uint32 { return half.apply(half.apply(crc)) })
	}
	return all
}

// variable is what lb_sctp.h calls them.
const variable = "sctp_past"

// Prepare gives an object that includes lb_sctp.h its constants.
func Prepare(spec *ebpf.CollectionSpec) error {
	if err := spec.Variables[variable].Set(Past()); err != nil {
		return fmt.Errorf("set the constants of SCTP's checksum: %w", err)
	}
	return nil
}
