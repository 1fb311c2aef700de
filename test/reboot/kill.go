// Package reboot does to a cluster what a reboot or a power cut of the host
// does, without touching anything else of the host.
package reboot

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/test/processes"
)

const (
	// patience with processes and cgroups that are on their way out.
	patience = 20 * time.Second
	pace     = 10 * time.Millisecond
	// settled is how often in a row no process is found before there is none:
	// some start others while they are looked for.
	settled = 10
)

// Kill ends every process of a cluster at once, and returns when there is none.
func Kill(cluster string) error {
	none := 0
	for deadline := time.Now().Add(patience); none < settled; time.Sleep(pace) {
		alive, err := processes.Of(cluster)
		if err != nil {
			return err
		}
		if none++; len(alive) > 0 {
			none = 0
		}
		for _, p := range alive {
			_ = unix.Kill(p.PID, unix.SIGKILL)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("cluster %s: processes %v live on %v after SIGKILL", cluster, alive, patience)
		}
	}
	return nil
}
