package shared

import "sync"

// Doubling calls do for 0 … n-1 in batches of 1, 2, 4 …, each batch at once,
// until a batch has a failure: what refuses one of many hears it once. It
// returns how many calls succeeded, and a failure.
func Doubling(n int, do func(i int) error) (succeeded int, failure error) {
	for first, batch := 0, 1; first < n; first, batch = first+batch, batch*2 {
		batch = min(batch, n-first)
		failures := InParallel(batch, func(i int) error { return do(first + i) })
		succeeded += batch - len(failures)
		if len(failures) > 0 {
			return succeeded, failures[0]
		}
	}
	return succeeded, nil
}

// InParallel calls do for 0 … n-1 at once and returns the failures.
func InParallel(n int, do func(i int) error) []error {
	var (
		mu       sync.Mutex // guards failures
		failures []error
		wg       sync.WaitGroup
	)
	for i := range n {
		wg.Go(func() {
			if err := do(i); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failures = append(failures, err)
			}
		})
	}
	wg.Wait()
	return failures
}
