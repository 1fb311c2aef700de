package namespace

import "time"

// recheckAfter is how long to wait for remaining content when no event says
// that it went: objects other than Pods are not watched. estimate is the
// library's, in seconds, of how long the content needs.
//
// A young deletion is looked at every second. An old one hangs on a finalizer
// or a long grace period, and is looked at as rarely as upstream does, as each
// look is some eighty requests.
func recheckAfter(deletedFor time.Duration, estimate int64) time.Duration {
	upstream := time.Duration(estimate/2+1) * time.Second
	if deletedFor < 10*time.Second {
		return min(time.Second, upstream)
	}
	return upstream
}
