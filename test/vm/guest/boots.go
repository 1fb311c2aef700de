package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/dataplane/features"
)

// first is the first boot: a cluster is made and looked at.
func (g *guest) first() {
	g.facts()
	g.check("the host has cgroup2 alone", func() (string, error) {
		var st unix.Statfs_t
		if err := unix.Statfs("/sys/fs/cgroup", &st); err != nil {
			return "", err
		}
		if st.Type != unix.CGROUP2_SUPER_MAGIC {
			return "", fmt.Errorf("/sys/fs/cgroup is of type %#x", st.Type)
		}
		return words("/sys/fs/cgroup/cgroup.controllers")
	})
	if missing := features.Services(); missing != nil {
		g.check("`skiff create cluster` refuses this kernel, and says what it lacks", func() (string, error) { return g.refused(missing) })
		g.over = true
		return
	}
	if !g.must("`skiff create cluster`, until all nodes are Ready", g.create) ||
		!g.must("`skiff load image-archive`", func() (string, error) {
			_, err := skiff("load", "image-archive", here+"/images.tar")
			return "", err
		}) ||
		!g.must("a Deployment of three Pods", deployment) {
		return
	}
	g.check("its Service answers on the host", service)
	g.must("a StatefulSet with a claim writes to its volume", g.writeDiary)
	g.check("a machine's limits are its cgroup's", machineLimits)
	g.check("a Pod of each QoS class is in its cgroup, with its limits", qosTree)
	g.check("a running container's checkpoint is taken with criu", checkpoint)
	g.check("cluster DNS and the Service answer in a Pod", g.fromPod)
	g.check("NetworkPolicy", g.networkPolicy)
	g.check("the kernel's SCTP reaches everybody from everywhere through the programs", sctpAssociations)
	g.check("a Service and a host port of SCTP answer", sctpService, ofSCTP)
	g.check("NetworkPolicy on protocol SCTP", sctpPolicy, ofSCTP)
	g.check("a container that takes more than its limit is OOMKilled", oom)
	g.check("a Pod that takes the node's memory is evicted, the others stay", evict)
	if g.failed {
		return
	}
	if !g.must("`skiff install-service` with systemd", install) {
		return
	}
	g.must("what must come back is written down", func() (string, error) {
		var err error
		g.state.Looks, err = look()
		return "", err
	})
}

// afterReboot is the second boot: the service started the cluster.
func (g *guest) afterReboot() {
	g.check("the machine was booted again", g.booted)
	if g.must("systemd started the cluster", started) {
		g.cameBack("bye up")
		g.must("a ConfigMap is written just before the power goes", func() (string, error) {
			_, err := kubectl("create", "configmap", "last-words", "--from-literal=said=yes")
			return "", err
		})
	}
}

// afterPowerCut is the third boot, after one that nothing was told of.
func (g *guest) afterPowerCut() {
	g.check("the machine was booted again", g.booted)
	if !g.must("systemd started the cluster", started) {
		return
	}
	g.cameBack("up")
	g.check("the ConfigMap is there", func() (string, error) { return "", expectField("configmap/last-words", "{.data.said}", "yes") })
	// The last ones: a node whose disk was full takes no Pod for five minutes.
	g.check("the file system limits what directories of a project hold", quotas)
	g.check("a node has the disk that it declares, and evicts who fills it", fillDisk)
	g.check("`skiff delete cluster` and `uninstall-service` leave nothing", remove)
}

// cameBack compares the cluster with what it was; entries are what the diary
// got since.
func (g *guest) cameBack(entries string) {
	g.state.Diary += " " + entries
	g.must("the volume has its data, and the Pod's next entry", func() (string, error) {
		return g.state.Diary, until(func() error {
			have, err := diary()
			if err == nil && have != g.state.Diary {
				err = fmt.Errorf("diary: have %q, want %q", have, g.state.Diary)
			}
			return err
		})
	})
	g.check("addresses, ports, certificates, kubeconfig, nodes, Pods and claims are the same", func() (string, error) {
		return "", until(func() error {
			now, err := look()
			return errors.Join(err, g.state.Looks.same(now))
		})
	})
	g.check("the Service answers on the host", service)
}

func (g *guest) facts() {
	for name, args := range map[string][]string{
		"kernel":       {"uname", "-r"},
		"distribution": {"sh", "-c", ". /etc/os-release; echo $PRETTY_NAME"},
		"systemd":      {"sh", "-c", "systemctl --version | head -1"},
		"skiff":        {"skiff", "version"},
	} {
		value, err := output(args[0], args[1:]...)
		if err != nil {
			value = err.Error()
		}
		g.fact(name, strings.TrimSpace(value))
	}
}

func (g *guest) booted() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err == nil && string(id) == g.state.BootID {
		err = errors.New("the kernel's boot id is the same")
	}
	return "", err
}

func install() (string, error) {
	if _, err := skiff("install-service"); err != nil {
		return "", err
	}
	// What `systemctl` says to a unit that the next boot starts, and that
	// nobody started by hand: a reboot stops only units that are active.
	if _, err := output("systemctl", "is-enabled", "skiff.service"); err != nil {
		return "", err
	}
	_, err := output("systemctl", "start", "skiff.service")
	return "", err
}

// started waits for the unit, which waits for the nodes.
func started() (string, error) {
	state := ""
	err := until(func() (err error) {
		state, err = output("systemctl", "is-active", "skiff.service")
		if strings.TrimSpace(state) == "failed" {
			return nil
		}
		return err
	})
	if err != nil || strings.TrimSpace(state) != "active" {
		return "", errors.Join(fmt.Errorf("skiff.service is %q", strings.TrimSpace(state)), err)
	}
	out, err := output("systemctl", "show", "skiff.service", "-p", "ExecMainStartTimestampMonotonic,ExecMainExitTimestampMonotonic", "--value")
	var at [2]float64
	if _, scanErr := fmt.Sscan(out, &at[0], &at[1]); err == nil && scanErr != nil {
		err = scanErr
	}
	return fmt.Sprintf("the unit ran from %.0f s to %.0f s after the boot", at[0]/1e6, at[1]/1e6), err
}

// remove deletes all and looks for what is left.
func remove() (string, error) {
	if _, err := skiff("delete", "cluster"); err != nil {
		return "", err
	}
	if _, err := skiff("uninstall-service"); err != nil {
		return "", err
	}
	return "", nothingLeft()
}

// nothingLeft looks for what clusters are made of.
func nothingLeft() error {
	var left []string
	for _, pattern := range []string{"/sys/fs/cgroup/skiff", "/var/lib/skiff/clusters/*", "/run/skiff/*", "/etc/systemd/system/skiff.service"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		left = append(left, found...)
	}
	links, err := output("ip", "-o", "link")
	if err != nil {
		return err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	if strings.Count(links, "\n") > 1 {
		left = append(left, links)
	}
	if strings.Contains(string(mounts), "/run/skiff/") {
		left = append(left, "mounts in /run/skiff")
	}
	if len(left) > 0 {
		return fmt.Errorf("left: %s", strings.Join(left, ", "))
	}
	return nil
}
