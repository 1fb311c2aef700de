package pid1

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// root is the machine's root file system while it is made under path, in the
// host's tree but in our own mount namespace.
type root struct {
	path string
	// dir is an O_PATH descriptor of path.
	dir int
	// binds are detached copies of the mounts' sources, in the order of the
	// configuration.
	binds []int
}

func (r *root) at(path string) string { return filepath.Join(r.path, path) }

func (r *root) close() {
	for _, fd := range r.binds {
		unix.Close(fd)
	}
	unix.Close(r.dir)
}

// openRoot copies the sources of all binds while they still belong to the
// host's peer groups (Bidirectional mounts must stay in them), cuts our mount
// namespace off from the host's, and mounts the machine's root.
func openRoot(path string, mounts []machine.Mount) (*root, error) {
	r := &root{path: path, dir: -1}
	for _, m := range mounts {
		fd, err := copyTree(m)
		if err != nil {
			r.close()
			return nil, err
		}
		r.binds = append(r.binds, fd)
	}
	// Nothing of ours may propagate to the host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return nil, fmt.Errorf("make / a slave: %w", err)
	}
	if err := unix.Mount("skiff", path, "tmpfs", 0, "mode=0755"); err != nil {
		return nil, fmt.Errorf("mount root %s: %w", path, err)
	}
	dir, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open root %s: %w", path, err)
	}
	r.dir = dir
	return r, nil
}

// copyTree returns a detached copy of the mount tree at m.Source with m's
// attributes.
func copyTree(m machine.Mount) (int, error) {
	flags, attrFlags := uint(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC), uint(unix.AT_EMPTY_PATH)
	switch m.Type {
	case "bind":
	case "rbind":
		flags |= unix.AT_RECURSIVE
		attrFlags |= unix.AT_RECURSIVE
	default:
		return -1, fmt.Errorf("mount %s: type %q is not bind or rbind", m.Target, m.Type)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, m.Source, flags)
	if err != nil {
		return -1, fmt.Errorf("copy mount %s: %w", m.Source, err)
	}
	attr := unix.MountAttr{}
	switch m.Propagation {
	case "":
		attr.Propagation = unix.MS_PRIVATE
	case "rslave":
		attr.Propagation = unix.MS_SLAVE
	case "rshared":
		attr.Propagation = unix.MS_SHARED
	default:
		unix.Close(fd)
		return -1, fmt.Errorf("mount %s: unknown propagation %q", m.Target, m.Propagation)
	}
	if m.ReadOnly {
		attr.Attr_set = unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(fd, "", attrFlags, &attr); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("set attributes of mount %s: %w", m.Source, err)
	}
	return fd, nil
}

// systemDirs are the directories of an empty machine.
var systemDirs = []struct {
	path string
	mode os.FileMode
}{
	{"/dev/pts", 0o755}, {"/dev/shm", 0o1777}, {"/dev/mqueue", 0o1777}, {"/dev/net", 0o755},
	{"/etc", 0o755}, {"/home", 0o755}, {"/media", 0o755}, {"/mnt", 0o755}, {"/opt", 0o755},
	{"/proc", 0o555}, {"/root", 0o700}, {"/run/lock", 0o1777}, {"/run/skiff", 0o755},
	{"/skiff", 0o755}, {"/skiff/proc", 0o555}, {"/srv", 0o755}, {"/sys", 0o555}, {"/tmp", 0o1777}, {"/var", 0o755},
}

// systemLinks: directories of the host are bound read-only by the
// supervisor's configuration; here only the symbolic links of a merged /usr
// are made again.
var systemLinks = []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"}

// copiedFiles are small files of the host's /etc that libraries and the tools
// of /usr read; the machine has its own copies.
var copiedFiles = []string{
	"/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/ld.so.cache", "/etc/ld.so.conf",
	"/etc/mke2fs.conf", "/etc/protocols", "/etc/services", "/etc/ethertypes", "/etc/host.conf",
	"/etc/gai.conf", "/etc/localtime", "/etc/os-release", "/etc/xattr.conf", "/etc/mime.types",
	"/etc/login.defs", "/etc/magic", "/etc/bindresvport.blacklist", "/etc/rpc", "/etc/netconfig",
}

func (r *root) copySystem(*machine.MachineConfiguration) error {
	for _, d := range systemDirs {
		if err := os.MkdirAll(r.at(d.path), 0o755); err != nil {
			return fmt.Errorf("create %s: %w", d.path, err)
		}
		// Chmod, because MkdirAll obeys the umask.
		if err := os.Chmod(r.at(d.path), fileMode(uint32(d.mode))); err != nil {
			return fmt.Errorf("create %s: %w", d.path, err)
		}
	}
	for _, path := range systemLinks {
		target, err := os.Readlink(path)
		if err != nil {
			continue // absent, or a directory: then it is one of the binds
		}
		if err := os.Symlink(target, r.at(path)); err != nil {
			return fmt.Errorf("link %s: %w", path, err)
		}
	}
	for _, path := range copiedFiles {
		if err := copyFile(path, r.at(path)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("copy %s: %w", path, err)
		}
	}
	return nil
}

// copyFile copies one small file or symbolic link.
func copyFile(from, to string) error {
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	if info.Mode()&os.ModeSymlink != 0 {
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, info.Mode().Perm())
}

// fileMode turns a unix mode (0o1777) into Go's.
func fileMode(mode uint32) os.FileMode {
	m := os.FileMode(mode & 0o777)
	if mode&0o1000 != 0 {
		m |= os.ModeSticky
	}
	return m
}

func (r *root) mountSystem(*machine.MachineConfiguration) error {
	const noexec = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, m := range []struct {
		fstype, target, data string
		flags                uintptr
	}{
		{"proc", "/proc", "", noexec},
		// A Pod in a user namespace may mount a proc only where the machine has
		// one that nothing covers: shadowSysctls covers parts of the other.
		{"proc", "/skiff/proc", "", noexec},
		{"sysfs", "/sys", "", noexec},
		{"bpf", machine.BPFDir, "mode=0700", noexec},
		{"devpts", "/dev/pts", "newinstance,ptmxmode=0666,mode=0620,gid=5", unix.MS_NOSUID | unix.MS_NOEXEC},
		{"tmpfs", "/dev/shm", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV},
		{"mqueue", "/dev/mqueue", "", noexec},
	} {
		if err := unix.Mount(m.fstype, r.at(m.target), m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.fstype, m.target, err)
		}
	}
	return nil
}

// mountCgroups gives the machine the host's cgroup layout, rooted at its own
// directories.
func (r *root) mountCgroups(cfg *machine.MachineConfiguration) error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	const base = "/sys/fs/cgroup"
	if len(cfg.Cgroups) == 0 {
		return nil
	}
	if cfg.Cgroups[0].MountPath != base {
		if err := unix.Mount("tmpfs", r.at(base), "tmpfs", flags, "mode=0755"); err != nil {
			return fmt.Errorf("mount tmpfs on %s: %w", base, err)
		}
	}
	for _, cg := range cfg.Cgroups {
		target := r.at(cg.MountPath)
		if err := os.MkdirAll(target, 0o755); err != nil {
			return fmt.Errorf("create %s: %w", cg.MountPath, err)
		}
		fstype, data := "cgroup2", ""
		if cg.Controllers != "" {
			fstype, data = "cgroup", cg.Controllers
			if strings.HasPrefix(data, "name=") {
				data = "none," + data
			}
		}
		if err := unix.Mount(fstype, target, fstype, flags, data); err != nil {
			return fmt.Errorf("mount %s (%s) on %s: %w", fstype, data, cg.MountPath, err)
		}
		// Controllers mounted together are found under each one's name.
		for _, controller := range strings.Split(cg.Controllers, ",") {
			link := filepath.Join(filepath.Dir(target), controller)
			if controller == "" || strings.Contains(controller, "=") || link == target {
				continue
			}
			if err := os.Symlink(filepath.Base(target), link); err != nil && !errors.Is(err, os.ErrExist) {
				return fmt.Errorf("link %s: %w", link, err)
			}
		}
	}
	return nil
}

// shadowedSysctls are the kernel settings that the kubelet sets, which are
// the host's and not the namespace's: in the machine they are plain files
// that already have the kubelet's values, so that a cluster never changes its
// host.
var shadowedSysctls = map[string]string{
	"vm/overcommit_memory":      "1\n",
	"vm/panic_on_oom":           "0\n",
	"kernel/panic":              "10\n",
	"kernel/panic_on_oops":      "1\n",
	"kernel/keys/root_maxkeys":  "1000000\n",
	"kernel/keys/root_maxbytes": "25000000\n",
}

func (r *root) shadowSysctls(*machine.MachineConfiguration) error {
	dir := r.at("/skiff/sysctl")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("create /skiff/sysctl: %w", err)
	}
	for name, value := range shadowedSysctls {
		target := r.at("/proc/sys/" + name)
		if _, err := os.Stat(target); err != nil {
			continue // a kernel without the setting
		}
		file := filepath.Join(dir, strings.ReplaceAll(name, "/", "."))
		if err := os.WriteFile(file, []byte(value), 0o644); err != nil {
			return fmt.Errorf("write %s: %w", file, err)
		}
		if err := unix.Mount(file, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("shadow sysctl %s: %w", name, err)
		}
	}
	return nil
}

// writeFiles also makes the read-write half of /etc.
func (r *root) writeFiles(cfg *machine.MachineConfiguration) error {
	for _, f := range cfg.Files {
		path := r.at(f.Path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("write %s: %w", f.Path, err)
		}
		if err := os.WriteFile(path, []byte(f.Content), fileMode(f.Mode)); err != nil {
			return fmt.Errorf("write %s: %w", f.Path, err)
		}
	}
	if err := os.Symlink("/proc/self/mounts", r.at("/etc/mtab")); err != nil {
		return fmt.Errorf("link /etc/mtab: %w", err)
	}
	return nil
}

// attachBinds puts the copied mounts at their targets, in order.
func (r *root) attachBinds(cfg *machine.MachineConfiguration) error {
	for i, m := range cfg.Mounts {
		if err := r.attach(r.binds[i], m.Target); err != nil {
			return fmt.Errorf("mount %s: %w", m.Target, err)
		}
	}
	return nil
}

func (r *root) attach(tree int, path string) error {
	dir, err := isDir(tree)
	if err != nil {
		return err
	}
	target, err := r.ensureTarget(path, dir)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	// The kernel would say "invalid argument".
	switch there, err := isDir(target); {
	case err != nil:
		return err
	case dir && !there:
		return unix.ENOTDIR
	case there && !dir:
		return unix.EISDIR
	}
	return unix.MoveMount(tree, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

func isDir(fd int) (bool, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, err
}

// ensureTarget opens path inside the new root, following its symbolic links
// as the machine will, and makes what is missing.
func (r *root) ensureTarget(path string, dir bool) (int, error) {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(r.dir, path, how)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	parent, err := r.ensureTarget(filepath.Dir(path), true)
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	name := filepath.Base(path)
	if dir {
		if err := unix.Mkdirat(parent, name, 0o755); err != nil {
			return -1, fmt.Errorf("create %s: %w", path, err)
		}
	} else {
		file, err := unix.Openat(parent, name, unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return -1, fmt.Errorf("create %s: %w", path, err)
		}
		unix.Close(file)
	}
	return unix.Openat2(r.dir, path, how)
}

// pivot makes the new root the machine's / and drops the host's. The root is
// shared, as the kubelet's mount propagation wants it.
func (r *root) pivot(*machine.MachineConfiguration) error {
	if err := unix.Fchdir(r.dir); err != nil {
		return fmt.Errorf("enter new root: %w", err)
	}
	// Both arguments the same: the old root is stacked on the new one and
	// can be detached from there, no directory for it is needed.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the host's root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter new root: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make / shared: %w", err)
	}
	return nil
}
