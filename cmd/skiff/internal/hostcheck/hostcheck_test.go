package hostcheck

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestChecksPassHereAndLeaveNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	before := links(t)
	if err := Cluster(3); err != nil {
		t.Fatal(err)
	}
	if after := links(t); !slices.Equal(before, after) {
		t.Errorf("links before %v, after %v", before, after)
	}
}

// The limit itself is not reached here: it is the whole host's.
func TestTheLimitOfInotifySaysHowToRaiseIt(t *testing.T) {
	var e *Error
	if err := inotifyError(40, 7, unix.EMFILE); !errors.As(err, &e) ||
		!strings.Contains(e.Error(), "7 of ") || !strings.HasPrefix(e.Mend(), "sysctl -w fs.inotify.max_user_instances=") {
		t.Errorf("have %v", err)
	}
	if err := inotifyError(40, 7, unix.ENOSYS); !errors.Is(err, unix.ENOSYS) {
		t.Errorf("have %v", err)
	}
}

func links(t *testing.T) []string {
	t.Helper()
	all, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range all {
		names = append(names, l.Attrs().Name)
	}
	return names
}
