package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// unneeded packages are dependencies of maintainer scripts only, which do not
// run here.
var unneeded = []string{"debconf", "cdebconf", "dpkg", "install-info", "readline-common", "libaudit-common", "libdebian-installer4", "libnewt0.52", "libslang2", "libtextwrap1", "tar", "gawk", "original-awk", "mawk", "libelogind0", "gcc-12-base", "base-files", "debianutils", "init-system-helpers", "lsb-base", "sysvinit-utils", "adduser", "passwd"}

// debs adds the files of Debian packages and of all they depend on.
func (b *builder) debs(ctx context.Context, w *tar.Writer, packages []string) error {
	all, err := closure(ctx, packages)
	if err != nil {
		return err
	}
	paths, err := b.download(ctx, all)
	if err != nil {
		return err
	}
	for _, link := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: link, Linkname: "usr/" + link, Mode: 0o777, ModTime: epoch}); err != nil {
			return err
		}
	}
	seen := map[string]bool{}
	for _, p := range paths {
		if err := addDeb(ctx, w, p, seen); err != nil {
			return fmt.Errorf("package %s: %w", filepath.Base(p), err)
		}
	}
	return addApplets(w, seen)
}

// closure lists the packages and their dependencies, sorted.
func closure(ctx context.Context, packages []string) ([]string, error) {
	args := append([]string{"depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances"}, packages...)
	out, err := exec.CommandContext(ctx, "apt-cache", args...).Output()
	if err != nil {
		return nil, fmt.Errorf("apt-cache depends: %w; run `apt-get update` first", err)
	}
	var all []string
	for line := range strings.Lines(string(out)) {
		p := strings.TrimSpace(line)
		if p == "" || line[0] == ' ' || line[0] == '<' || strings.Contains(p, ":") || slices.Contains(unneeded, p) {
			continue
		}
		all = append(all, p)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// download fetches the packages that the cache lacks and gives their files.
func (b *builder) download(ctx context.Context, packages []string) ([]string, error) {
	dir := filepath.Join(b.cache, "debs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	var missing []string
	for _, p := range packages {
		if found, _ := filepath.Glob(filepath.Join(dir, p+"_*.deb")); len(found) == 0 {
			missing = append(missing, p)
		}
	}
	if len(missing) > 0 {
		// apt drops to the user _apt, who may not write here; it is told not to.
		cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-o", "APT::Sandbox::User=root", "-q", "download"}, missing...)...)
		cmd.Dir = dir
		if msg, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("apt-get download %s: %w\n%s", strings.Join(missing, " "), err, msg)
		}
	}
	var paths []string
	for _, p := range packages {
		found, _ := filepath.Glob(filepath.Join(dir, p+"_*.deb"))
		if len(found) == 0 {
			return nil, fmt.Errorf("package %s: apt-get downloaded no file", p)
		}
		paths = append(paths, found[len(found)-1])
	}
	return paths, nil
}

// addDeb copies a package's files into w, below /usr as Debian's merged
// layout wants it, without documentation.
func addDeb(ctx context.Context, w *tar.Writer, path string, seen map[string]bool) error {
	data, err := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", path).Output()
	if err != nil {
		return fmt.Errorf("dpkg-deb: %w", err)
	}
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		h.Name = merged(h.Name)
		if h.Typeflag == tar.TypeLink {
			h.Linkname = merged(h.Linkname)
		}
		if h.Name == "" || h.Typeflag == tar.TypeDir || seen[h.Name] || skipped(h.Name) {
			continue
		}
		seen[h.Name] = true
		h.ModTime, h.Format = epoch, tar.FormatUnknown
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(w, r); err != nil {
			return err
		}
	}
}

func merged(name string) string {
	name = strings.Trim(strings.TrimPrefix(name, "."), "/")
	for _, top := range []string{"bin/", "sbin/", "lib/", "lib64/"} {
		if strings.HasPrefix(name, top) {
			return "usr/" + name
		}
	}
	return name
}

func skipped(name string) bool {
	for _, p := range []string{"usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian", "usr/share/info", "usr/share/bug", "usr/share/bash-completion"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// addApplets links busybox's applets for all commands that no package brings.
func addApplets(w *tar.Writer, seen map[string]bool) error {
	if !seen["usr/bin/busybox"] {
		return nil
	}
	for applet := range strings.FieldsSeq(applets) {
		p := "usr/bin/" + applet
		if seen[p] || seen["usr/sbin/"+applet] {
			continue
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: p, Linkname: "busybox", Mode: 0o777, ModTime: epoch}); err != nil {
			return err
		}
	}
	return nil
}

// applets of Debian's busybox-static that tests and manifests use; sh is
// bash, hostname and wget come from elsewhere where a recipe brings them.
const applets = `[ [[ arch ash awk base64 basename blockdev brctl bunzip2 bzcat bzip2 cal cat
chgrp chmod chown chroot chvt clear cmp cp cpio cttyhack cut date dc dd deallocvt depmod df diff dirname
dmesg dnsdomainname dos2unix du dumpkmap dumpleases echo egrep env expand expr factor fallocate false
fgrep find fold free freeramdisk fsfreeze fstrim ftpget ftpput getopt grep groups gunzip gzip head
hexdump hostid hostname httpd hwclock i2cdetect id ifconfig init install ionice ipcalc kill killall
klogd last less link linux32 linux64 ln loadfont loadkmap logger login logname logread losetup ls lsmod
lsscsi lzcat lzma lzop md5sum mesg microcom mkdir mkdosfs mke2fs mkfifo mknod mkpasswd mkswap mktemp
more mount mountpoint mt mv nbd-client netstat nl nologin nproc nslookup nuke od openvt partprobe paste
patch pidof ping ping6 pivot_root poweroff printf ps pwd rdate readlink realpath reboot renice reset
resize resume rev rm rmdir route rpm rpm2cpio run-init run-parts sed seq setkeycodes setpriv setsid
sha1sum sha256sum sha512sum shred shuf sleep sort ssl_client start-stop-daemon stat strings stty su
sulogin svc svok swapoff swapon switch_root sync sysctl syslogd tac tail tar taskset tee telnet test
tftp time timeout top touch tr traceroute traceroute6 true truncate tty ubirename udhcpc udhcpd umount
uname uncompress unexpand uniq unix2dos unlink unlzma unshare unxz unzip uptime usleep uudecode uuencode
vconfig vi w watch watchdog wc wget which who whoami xargs xxd xz xzcat yes zcat printenv`
