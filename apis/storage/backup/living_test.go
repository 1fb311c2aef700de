package backup

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestLivingIsWhatTheSavedEtcdWouldAnswer(t *testing.T) {
	dir := t.TempDir()
	client, endpoint, stop := run(t, dir)
	for _, key := range []string{"/a/kept", "/a/changed", "/a/deleted", "/a/again", "/b/other"} {
		put(t, client, key, "old")
	}
	put(t, client, "/a/changed", "new")
	for _, key := range []string{"/a/deleted", "/a/again"} {
		if _, err := client.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	put(t, client, "/a/again", "born twice")
	file := filepath.Join(t.TempDir(), "saved.db")
	_, err := Save(t.Context(), []string{endpoint}, file)
	stop()
	if err != nil {
		t.Fatal(err)
	}
	living, err := Living(file, "/a/")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, key := range slices.Sorted(maps.Keys(living)) {
		got = append(got, key+"="+string(living[key]))
	}
	if text := strings.Join(got, " "); text != "/a/again=born twice /a/changed=new /a/kept=old" {
		t.Errorf("living: %s", text)
	}
	if _, err := Living(filepath.Join(dir, "none.db"), ""); err == nil || !strings.Contains(err.Error(), "none.db") {
		t.Errorf("a file that is not there: %v", err)
	}
}
