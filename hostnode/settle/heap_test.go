package settle

import (
	"runtime/metrics"
	"testing"
)

var sink []byte

// released is what the heap has given back to the system, in bytes.
func released() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

func TestHeapGivesGarbageBackWhenQuiet(t *testing.T) {
	const garbage = 64 << 20
	h := Heap{Share: 3}
	h.Look()
	for range garbage / (1 << 20) {
		sink = make([]byte, 1<<20)
		for i := range sink {
			sink[i] = 1
		}
	}
	if h.Look() {
		t.Error("gave back while much was allocated")
	}
	sink = nil
	before := released()
	if !h.Look() {
		t.Fatal("gave nothing back though nothing was allocated")
	}
	if after := released(); after < before+garbage/32 {
		t.Errorf("released %d bytes, then %d", before, after)
	}
}
