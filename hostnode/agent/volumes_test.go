package agent

import (
	"testing"
	"time"
)

func TestTheLoopsRunAsLongAsThereIsSomethingToDo(t *testing.T) {
	now := time.Now()
	listed := true
	p := &pace{kicked: make(chan struct{}), listed: func() bool { return listed }}
	check := func(when string, loop int, at time.Time, want time.Duration) {
		t.Helper()
		if got, _ := p.next(loop, at); got != want {
			t.Errorf("%s: pause %v, want %v", when, got, want)
		}
	}
	slow := upstreamPause - volumePoll

	listed = false
	check("before the pods are known", listing, now, slow)
	listed = true
	check("with nothing to do", listing, now, idlePause)

	_, kicked := p.next(mounting, now)
	end := p.begin()
	select {
	case <-kicked:
	default:
		t.Error("a pod that comes does not end a pause")
	}
	for range passes {
		check("right after a pod came", listing, now, 0)
		check("right after a pod came, other loop", mounting, now, 0)
	}
	check("while the pod waits", listing, now, slow)

	p.looking++
	check("while the pod looks", listing, now, 0)
	p.looking--

	end()
	for range passes {
		check("right after the pod went", mounting, now, 0)
	}
	check("shortly after the pod went", mounting, now, slow)
	check("long after the pod went", mounting, now.Add(2*volumeTail), idlePause)
}
