package sctp

import (
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"testing"
)

// TestPastCorrectsChecksums changes the ports of random packets, and corrects
// their checksum as the programs do, without another look at the packet.
func TestPastCorrectsChecksums(t *testing.T) {
	past := Past()
	castagnoli := crc32.MakeTable(crc32.Castagnoli)
	r := rand.New(rand.NewPCG(9, 260))
	for range 3000 {
		// All lengths that an IP packet may have, the short ones more often.
		size := 16 + r.IntN(1<<(4+r.IntN(12)))
		packet := make([]byte, size)
		for i := range packet {
			packet[i] = byte(r.Uint32())
		}
		clear(packet[8:12])
		sum := crc32.Checksum(packet, castagnoli)

		before := binary.LittleEndian.Uint32(packet)
		binary.LittleEndian.PutUint32(packet, r.Uint32())
		moved := before ^ binary.LittleEndian.Uint32(packet)
		for i := range past {
			if size>>i&1 == 1 {
				moved = past[i].apply(moved)
			}
		}
		if got, want := sum^moved, crc32.Checksum(packet, castagnoli); got != want {
			t.Fatalf("%d bytes: %#x, want %#x", size, got, want)
		}
	}
}
