package settle

import (
	"runtime/debug"
	"runtime/metrics"
)

// Heap gives back what the heap keeps beyond what lives in it, while there is
// nothing to do: Go collects when the heap has doubled, which takes an idle
// process minutes, and keeps the pages for as long as it might need them again.
// It is for one goroutine.
type Heap struct {
	// Share of what lives, one in so many, may be kept needlessly.
	Share     uint64
	allocated uint64
}

// Look is to be called from time to time, and tells whether it gave something
// back. It does so if since the last call less was allocated than lives, and
// what is kept needlessly is more than a Share of that, and a megabyte.
func (h *Heap) Look() bool {
	const live, objects, free, allocated = 0, 1, 2, 3
	samples := []metrics.Sample{
		live:      {Name: "/gc/heap/live:bytes"}, // at the end of the last collection
		objects:   {Name: "/memory/classes/heap/objects:bytes"},
		free:      {Name: "/memory/classes/heap/free:bytes"},
		allocated: {Name: "/gc/heap/allocs:bytes"},
	}
	metrics.Read(samples)
	value := func(i int) uint64 { return samples[i].Value.Uint64() }
	since := value(allocated) - h.allocated
	h.allocated = value(allocated)
	needless := value(objects) + value(free) - min(value(live), value(objects))
	if since > value(live) || needless < max(value(live)/h.Share, 1<<20) {
		return false
	}
	debug.FreeOSMemory()
	return true
}
