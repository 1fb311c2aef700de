package needs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// host is where to look; tests have their own.
type host struct {
	// filesystems is the kernel's list, sys its tree of devices.
	filesystems, sys string
	// program finds a program.
	program func(name string) (string, error)
}

func theHost() host {
	return host{filesystems: "/proc/filesystems", sys: "/sys", program: exec.LookPath}
}

// helpers are the programs without which mount(8) cannot, by type of file
// system, and their packages in Debian.
var helpers = map[string]string{"nfs": "nfs-common", "nfs4": "nfs-common", "cifs": "cifs-utils"}

// filesystem says what is missing for mounts of a type; empty: nothing is.
func (h host) filesystem(kind string) string {
	var missing []string
	if pkg, ok := helpers[kind]; ok && !h.has("mount."+kind) {
		missing = append(missing, missingProgram("mount."+kind, pkg))
	}
	if !h.kernelHas(kind) {
		missing = append(missing, fmt.Sprintf(
			"the host's kernel has no file system %[1]s: load it there (modprobe %[1]s) or use a kernel with it", kind))
	}
	return strings.Join(missing, "; ")
}

// iscsi says what is missing for iSCSI.
func (h host) iscsi() string {
	var missing []string
	if !h.has("iscsiadm") {
		missing = append(missing, missingProgram("iscsiadm", "open-iscsi"))
	}
	if !h.hasClass("iscsi_transport") {
		missing = append(missing, "the host's kernel has no iSCSI initiator: load it there (modprobe iscsi_tcp) or use a kernel with it")
	}
	return strings.Join(missing, "; ")
}

// fibreChannel says what is missing for Fibre Channel.
func (h host) fibreChannel() string {
	if h.hasClass("fc_host") {
		return ""
	}
	return "the host has no Fibre Channel adapter (none in /sys/class/fc_host)"
}

func missingProgram(name, pkg string) string {
	return fmt.Sprintf("the host has no %s, and nodes run what is in its /usr: install it there (Debian: %s)", name, pkg)
}

func (h host) has(program string) bool {
	_, err := h.program(program)
	return err == nil
}

// hasClass says whether the kernel has devices of a class.
func (h host) hasClass(name string) bool {
	entries, err := os.ReadDir(filepath.Join(h.sys, "class", name))
	return err == nil && len(entries) > 0
}

// kernelHas says whether the kernel has a type of file system. It counts those
// of programs (fuse.sshfs) as there, and so all types if it does not say.
func (h host) kernelHas(kind string) bool {
	known, err := os.ReadFile(h.filesystems)
	if err != nil || strings.Contains(kind, ".") {
		return true
	}
	for line := range strings.Lines(string(known)) {
		if fields := strings.Fields(line); len(fields) > 0 && fields[len(fields)-1] == kind {
			return true
		}
	}
	return false
}

// because adds a reason to an error.
func because(err error, reason string) error {
	if err == nil || reason == "" {
		return err
	}
	return fmt.Errorf("%s. %w", reason, err)
}
