package backup

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"

	"github.com/skiff-k8s/skiff/test/etcdtest"
)

// beEtcd makes the test program an etcd of three members in that directory:
// only a process can be killed.
const beEtcd = "SKIFF_TEST_ETCD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(beEtcd); dir != "" {
		fmt.Println("failed", writeForEver(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// behind is how many writes the third member has: it stops then.
const behind = 20

// writeForEver tells the revision of each write that was acknowledged.
func writeForEver(dir string) error {
	authority, err := etcdtest.NewAuthority(dir, net.IPv4(127, 0, 0, 1))
	if err != nil {
		return err
	}
	members, err := etcdtest.Start(dir, authority)
	if err != nil {
		return err
	}
	client := v3client.New(members[0].EtcdServer)
	for n := 1; ; n++ {
		if n == behind {
			members[2].Stop()
		}
		r, err := client.Put(context.Background(), fmt.Sprintf("key%d", n), "value")
		if err != nil {
			continue // a change of leaders
		}
		fmt.Println(r.Header.Revision)
	}
}

// killedEtcd is the directories of three members that were killed, and the
// last revision that they acknowledged.
func killedEtcd(t *testing.T) (dirs []string, acknowledged int64) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), beEtcd+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	last := ""
	for lines, n := bufio.NewScanner(out), 0; lines.Scan(); n++ {
		if last = lines.Text(); n == 3*behind {
			_ = cmd.Process.Kill() // what it has told until then is read to its end
		}
	}
	_ = cmd.Wait() // killed
	if _, err := fmt.Sscan(last, &acknowledged); err != nil {
		t.Fatalf("%q: %v", last, err)
	}
	for i := range 3 {
		dirs = append(dirs, filepath.Join(dir, fmt.Sprintf("m%d", i)))
	}
	return dirs, acknowledged
}

func TestWhatAKilledEtcdOfThreeAcknowledgedIsSavedFromAnyMajority(t *testing.T) {
	dirs, acknowledged := killedEtcd(t)
	for name, of := range map[string][]string{
		"all": dirs, "those that ran": dirs[:2], "with the one that stopped before": {dirs[0], dirs[2]},
		"the others": {dirs[2], dirs[1]},
	} {
		path := filepath.Join(t.TempDir(), "file.db")
		st, err := SaveStopped(t.Context(), of, path)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		// The one that was on its way may be there or not.
		if st.Revision < acknowledged || st.Revision > acknowledged+1 || int64(st.Keys) != st.Revision-1 {
			t.Errorf("%s: saved %+v, acknowledged %d", name, st, acknowledged)
		}
		alone := filepath.Join(t.TempDir(), "alone")
		if err := Restore(path, alone, "token", Alone); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		client, _, stop := run(t, alone)
		r, err := client.Get(t.Context(), "key", clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil || r.Count != int64(st.Keys) {
			t.Errorf("%s: restored %v, %v", name, r, err)
		}
		stop()
	}
	for _, dir := range dirs {
		for _, of := range [][]string{{dir}, {dir, filepath.Join(t.TempDir(), "none")}} {
			if st, err := SaveStopped(t.Context(), of, filepath.Join(t.TempDir(), "file.db")); err == nil || !strings.Contains(err.Error(), "the logs of 1 voters") {
				t.Errorf("one of three: %+v, %v", st, err)
			}
		}
	}
}

func TestTheMostAdvancedVoterOfAMajorityIsElected(t *testing.T) {
	voters := func(ids ...uint64) map[uint64]bool {
		set := map[uint64]bool{}
		for _, id := range ids {
			set[id] = true
		}
		return set
	}
	three := voters(1, 2, 3)
	for name, test := range map[string]struct {
		members []stopped
		want    uint64 // 0: refused
	}{
		"alone":                                 {[]stopped{{id: 1, term: 2, index: 9, voters: voters(1)}}, 1},
		"the longest log":                       {[]stopped{{id: 1, term: 2, index: 9, voters: three}, {id: 2, term: 2, index: 10, voters: three}}, 2},
		"the latest term, however short":        {[]stopped{{id: 1, term: 2, index: 19, voters: three}, {id: 3, term: 3, index: 10, voters: three}}, 3},
		"one of three":                          {[]stopped{{id: 1, term: 2, index: 9, voters: three}}, 0},
		"none":                                  {nil, 0},
		"two of four":                           {[]stopped{{id: 1, index: 9, voters: voters(1, 2, 3, 4)}, {id: 2, index: 9, voters: voters(1, 2, 3, 4)}}, 0},
		"a learner is nobody's majority":        {[]stopped{{id: 1, index: 9, voters: voters(1, 2)}, {id: 4, index: 9, voters: voters(1, 2)}}, 0},
		"a learner does not vote, if ever":      {[]stopped{{id: 1, index: 8, voters: voters(1, 2)}, {id: 2, index: 9, voters: voters(1, 2)}, {id: 4, index: 9, voters: voters(1, 2)}}, 2},
		"who was removed does not count":        {[]stopped{{id: 1, index: 9, voters: voters(1, 3)}, {id: 2, index: 5, voters: three}}, 0},
		"who was removed and is all the others": {[]stopped{{id: 1, index: 9, voters: voters(1, 3)}, {id: 2, index: 5, voters: three}, {id: 3, index: 10, voters: voters(1, 3)}}, 3},
	} {
		got, err := elect(test.members)
		switch {
		case test.want == 0 && err == nil:
			t.Errorf("%s: elected %d", name, got.id)
		case test.want != 0 && err != nil:
			t.Errorf("%s: %v", name, err)
		case test.want != 0 && got.id != test.want:
			t.Errorf("%s: elected %d, want %d", name, got.id, test.want)
		}
	}
}
