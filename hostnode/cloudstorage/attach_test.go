package cloudstorage

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestWhoMayHaveAVolume(t *testing.T) {
	node := &nodeRecord{ID: "n", Zone: "z", Limit: 2}
	for _, tc := range []struct {
		name   string
		volume record
		want   attachment
		others int
		done   bool
		code   codes.Code
	}{
		{name: "a free volume", want: attachment{Node: "n"}},
		{name: "the node that has it", volume: record{Attached: []attachment{{Node: "n"}}}, want: attachment{Node: "n"}, others: 2, done: true},
		{name: "the node that has it otherwise", volume: record{Attached: []attachment{{Node: "n"}}}, want: attachment{Node: "n", ReadOnly: true}, code: codes.AlreadyExists},
		{name: "a second node", volume: record{Attached: []attachment{{Node: "m"}}}, want: attachment{Node: "n"}, code: codes.FailedPrecondition},
		{name: "a second node that only reads what another writes", volume: record{Attached: []attachment{{Node: "m"}}}, want: attachment{Node: "n", ReadOnly: true}, code: codes.FailedPrecondition},
		{name: "a second reader", volume: record{Attached: []attachment{{Node: "m", ReadOnly: true}}}, want: attachment{Node: "n", ReadOnly: true}},
		{name: "a second node of a share", volume: record{Shared: true, Attached: []attachment{{Node: "m"}}}, want: attachment{Node: "n"}},
		{name: "a node of another zone", volume: record{Zone: "y"}, want: attachment{Node: "n"}, code: codes.FailedPrecondition},
		{name: "a node of its zone", volume: record{Zone: "z"}, want: attachment{Node: "n"}},
		{name: "a node that is full", want: attachment{Node: "n"}, others: 2, code: codes.ResourceExhausted},
	} {
		done, err := (&Driver{}).admit(&tc.volume, tc.want, node, tc.others)
		if done != tc.done || status.Code(err) != tc.code {
			t.Errorf("%s: done %v, %v", tc.name, done, err)
		}
	}
}

// TestACrashLeavesNothing: what was being built is removed by the next one,
// what another builds now is not.
func TestACrashLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	crashed := filepath.Join(dir, aside+"1")
	if err := os.MkdirAll(filepath.Join(crashed, dataDir), 0o755); err != nil {
		t.Fatal(err)
	}
	alive, release, err := begin(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, releaseOther, err := begin(dir)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{crashed: false, alive: true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
	release()
	releaseOther()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
}

func TestSizes(t *testing.T) {
	for _, tc := range []struct {
		name             string
		required, limit  int64
		wantSize, failed int64
	}{
		{name: "nothing said", wantSize: defaultBytes},
		{name: "rounded up", required: 1, wantSize: roundTo},
		{name: "not above the limit", required: 5, limit: 10, wantSize: 5},
		{name: "the limit, when it is below the default", limit: 10, wantSize: 10},
		{name: "no size between them", required: 10, limit: 5, failed: 1},
	} {
		got, _, err := sizes(&csi.CapacityRange{RequiredBytes: tc.required, LimitBytes: tc.limit})
		if got != tc.wantSize || (err != nil) != (tc.failed > 0) {
			t.Errorf("%s: %d, %v", tc.name, got, err)
		}
	}
}

func TestIDsNameOneVolume(t *testing.T) {
	for _, same := range [][3]string{
		{"pd.csi.storage.gke.io", volumeID("pd.csi.storage.gke.io", "disk", "us-east1-b"), "projects/UNSPECIFIED/zones/UNSPECIFIED/disks/disk"},
		{"disk.csi.azure.com", "/subscriptions/S/resourceGroups/R/providers/Microsoft.Compute/disks/D", "/subscriptions/s/resourcegroups/r/providers/microsoft.compute/disks/d"},
		{"file.csi.azure.com", "#account#share#pod#default", "rg#account#share#"},
	} {
		if a, b := canonical(same[0], same[1]), canonical(same[0], same[2]); a != b {
			t.Errorf("%s: %s and %s", same[0], a, b)
		}
	}
	if canonical("ebs.csi.aws.com", "vol-1") == canonical("ebs.csi.aws.com", "vol-2") {
		t.Error("two volumes are one")
	}
}

func TestFileNamesStayInTheirDirectory(t *testing.T) {
	seen := map[string]string{}
	for _, id := range []string{"", ".", "..", "../../etc", "a/b", "a%2Fb", string(make([]byte, 300)), "[ds] v.vmdk"} {
		name := fileName(id)
		if name == "" || name[0] == '.' || len(name) > longestName {
			t.Errorf("%q: %q", id, name)
		}
		for _, c := range name {
			if c == '/' || c == 0 {
				t.Errorf("%q: %q", id, name)
			}
		}
		if other, taken := seen[name]; taken {
			t.Errorf("%q and %q are both %q", id, other, name)
		}
		seen[name] = id
	}
}
