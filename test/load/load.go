// Package load keeps calling web servers, each time on a new connection, and
// counts what failed. End-to-end tests use it on the host and, as the program
// test/images/load, in pods.
package load

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// patience is how long one call may take: more than a retransmitted SYN, so
// that a lost packet is slow and not failed.
const patience = 5 * time.Second

// Result counts calls.
type Result struct {
	Calls    int `json:"calls"`
	Failures int `json:"failures"`
	// Errors are the first failures, with their time.
	Errors []string `json:"errors,omitempty"`
	// Least is the number of calls to the URL that was called least.
	Least int `json:"least"`
	// Slowest is the longest call.
	Slowest time.Duration `json:"slowest"`
}

// most is how many errors are kept.
const most = 20

// Run calls every URL (at least one) again and again, with a pause between two calls to the
// same, until ctx ends. A call that has begun is finished.
func Run(ctx context.Context, urls []string, pause time.Duration) Result {
	var (
		mu    sync.Mutex // guards total
		total Result
		wg    sync.WaitGroup
		calls = make([]int, len(urls))
	)
	for i, url := range urls {
		wg.Go(func() {
			client := &http.Client{Timeout: patience, Transport: &http.Transport{
				DisableKeepAlives: true, DialContext: (&net.Dialer{}).DialContext,
			}}
			// Not all at once.
			for wait := pause * time.Duration(i) / time.Duration(len(urls)); sleep(ctx, wait); wait = pause {
				begin := time.Now()
				err := call(client, url)
				calls[i]++
				mu.Lock()
				total.add(url, begin, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	total.Least = slices.Min(calls)
	return total
}

func (r *Result) add(url string, begin time.Time, err error) {
	r.Calls++
	took := time.Since(begin)
	r.Slowest = max(r.Slowest, took)
	if err == nil {
		return
	}
	r.Failures++
	if len(r.Errors) < most {
		r.Errors = append(r.Errors, fmt.Sprintf("%s, %s after %v: %v", begin.UTC().Format("15:04:05.000000"), url, took.Round(time.Microsecond), err))
	}
}

func call(client *http.Client, url string) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", resp.Status)
	}
	return nil
}

// sleep says whether ctx is still alive afterwards.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return ctx.Err() == nil
	}
}
