package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
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
	return b.addApplets(ctx, w, seen)
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
func (b *builder) addApplets(ctx context.Context, w *tar.Writer, seen map[string]bool) error {
	if !seen["usr/bin/busybox"] {
		return nil
	}
	applets, err := b.applets(ctx)
	if err != nil {
		return err
	}
	for _, applet := range applets {
		p := "usr/bin/" + applet
		if applet == "busybox" || applet == "sh" || applet == "nc" || applet == "wget" || seen[p] || seen["usr/sbin/"+applet] {
			continue
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: p, Linkname: "busybox", Mode: 0o777, ModTime: epoch}); err != nil {
			return err
		}
	}
	return nil
}

// applets asks the package's busybox what it can do; recipes bring their own
// sh, nc and wget.
func (b *builder) applets(ctx context.Context) ([]string, error) {
	dir, err := filepath.Abs(filepath.Join(b.cache, "busybox"))
	if err != nil {
		return nil, err
	}
	found, _ := filepath.Glob(filepath.Join(b.cache, "debs", "busybox-static_*.deb"))
	if len(found) == 0 {
		return nil, errors.New("package busybox-static: not downloaded")
	}
	if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", found[len(found)-1], dir).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("dpkg-deb: %w: %s", err, out)
	}
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "bin/busybox"), "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("busybox --list: %w", err)
	}
	return strings.Fields(string(out)), nil
}
