package load

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestEveryFailedCallIsCounted(t *testing.T) {
	answer := func(status int) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(status) }))
		t.Cleanup(s.Close)
		return s
	}
	refusing := answer(http.StatusOK)
	refusing.Close()
	for name, c := range map[string]struct {
		url   string
		fails string
	}{
		"an answer is none":     {answer(http.StatusOK).URL, ""},
		"a wrong status is one": {answer(http.StatusServiceUnavailable).URL, "503"},
		"a refusal is one":      {refusing.URL, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			r := Run(ctx, []string{c.url, c.url}, time.Millisecond)
			if r.Calls < 2 || r.Least < 1 || r.Least > r.Calls/2 {
				t.Errorf("%d calls, %d to the one called least; want some of each", r.Calls, r.Least)
			}
			if c.fails == "" {
				if r.Failures != 0 {
					t.Errorf("%d failures: %q", r.Failures, r.Errors)
				}
				return
			}
			if r.Failures != r.Calls || !strings.Contains(r.Errors[0], c.fails) {
				t.Errorf("%d of %d calls failed with %q; want all, with %q", r.Failures, r.Calls, r.Errors, c.fails)
			}
		})
	}
}
