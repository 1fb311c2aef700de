package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// queriedServices are the names by which users of node log query
// (/logs/?query=NAME) and collectors of logs know what runs in this process. A
// machine has no journal: upstream's kubelet then looks for /var/log/NAME,
// /var/log/NAME.log and /var/log/NAME/NAME.log.
var queriedServices = []string{"kubelet", "containerd"}

// nameLogs makes the log of this process in dir, the machine's /var/log/skiff,
// known by those names beside dir. The links are relative: the kubelet opens
// nothing outside of /var/log, and a Pod may have that elsewhere. What else is
// there by such a name is somebody's own, and stays.
func nameLogs(dir string) error {
	target := filepath.Join(filepath.Base(dir), machinev1alpha1.NodeService+".log")
	var failed []error
	for _, name := range queriedServices {
		link := filepath.Join(filepath.Dir(dir), name+".log")
		if err := os.Symlink(target, link); err != nil && !errors.Is(err, os.ErrExist) {
			failed = append(failed, fmt.Errorf("name the log of %s: %w", name, err))
		}
	}
	return errors.Join(failed...)
}
