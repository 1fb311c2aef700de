package ready

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func TestNodesThatTakeNoPodsSayWhy(t *testing.T) {
	for name, tc := range map[string]struct{ object, want string }{
		"just registered": {`{"metadata":{"name":"a"}}`, "no status yet"},
		"not Ready": {`{"status":{"conditions":[{"type":"MemoryPressure","status":"False"},{"type":"Ready","status":"False","reason":"KubeletNotReady","message":"network not ready"}]}}`,
			"not Ready: KubeletNotReady: network not ready"},
		"lost": {`{"status":{"conditions":[{"type":"Ready","status":"Unknown","reason":"NodeStatusUnknown"}]}}`, "not Ready: NodeStatusUnknown"},
		"Ready, the taint not yet gone": {`{"spec":{"taints":[{"key":"node.kubernetes.io/not-ready","effect":"NoSchedule"}]},"status":{"conditions":[{"type":"Ready","status":"True"}]}}`,
			"tainted node.kubernetes.io/not-ready"},
		"Ready, with the control plane's taint": {`{"spec":{"taints":[{"key":"node-role.kubernetes.io/control-plane","effect":"NoSchedule"}]},"status":{"conditions":[{"type":"Ready","status":"True"}]}}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var n node
			if err := json.Unmarshal([]byte(tc.object), &n); err != nil {
				t.Fatal(err)
			}
			if got := n.lacks(time.Time{}); got != tc.want {
				t.Errorf("want %q, have %q", tc.want, got)
			}
		})
	}
}

func TestAStoppedNodeDoesNotCountAsItLooks(t *testing.T) {
	var n node
	if err := json.Unmarshal([]byte(`{"status":{"conditions":[{"type":"Ready","status":"True","lastHeartbeatTime":"2030-01-02T03:04:05Z"}]}}`), &n); err != nil {
		t.Fatal(err)
	}
	heard := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for since, want := range map[time.Time]string{
		heard.Add(-time.Hour): "", heard: "",
		heard.Add(900 * time.Millisecond): "", // the same second
		heard.Add(time.Second):            "not heard of since the start",
	} {
		if got := n.lacks(since); got != want {
			t.Errorf("since %v: want %q, have %q", since, want, got)
		}
	}
}

func TestWatchesEndWhenEnoughIsSeen(t *testing.T) {
	stream := `{"type":"ADDED","object":{"kind":"Node"}}` + "\n" + `{"type":"MODIFIED","object":{}}` + "\n" + `{"type":"ADDED","object":{}}`
	seen := 0
	if err := events(strings.NewReader(stream), func(event) bool { seen++; return seen == 2 }); err != nil || seen != 2 {
		t.Errorf("seen %d, %v", seen, err)
	}
	if err := events(strings.NewReader(stream), func(event) bool { return false }); !errors.Is(err, io.EOF) {
		t.Errorf("end of the stream: %v", err)
	}
	err := events(strings.NewReader(`{"type":"ERROR","object":{"reason":"Expired"}}`), func(event) bool { t.Error("saw an error"); return true })
	if err == nil || !strings.Contains(err.Error(), "Expired") {
		t.Errorf("error event: %v", err)
	}
}
