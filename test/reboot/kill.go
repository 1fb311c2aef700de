// Package reboot does to a cluster what a reboot or a power cut of the host
// does, without touching anything else of the host.
package reboot

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
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
		pids, err := processes(cluster)
		if err != nil {
			return err
		}
		if none++; len(pids) > 0 {
			none = 0
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("cluster %s: processes %v live on %v after SIGKILL", cluster, pids, patience)
		}
	}
	return nil
}

// processes lists what runs in the cluster's cgroups.
func processes(cluster string) ([]int, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, dir := range dirs {
		// Any of them may end meanwhile.
		cgroup, err := os.ReadFile(dir + "/cgroup")
		if err != nil || !strings.Contains(string(cgroup), "/skiff/"+cluster+"/") || ended(dir) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// ended tells a process that only its parent has not taken note of. Its first
// thread may have ended before the others, which keep its files open.
func ended(dir string) bool {
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return true
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	threads, err := os.ReadDir(dir + "/task")
	return strings.HasPrefix(state, "Z") && (err != nil || len(threads) <= 1)
}
