// Command skiff-dist becomes the `skiff` that is one file: behind its own end
// it carries the programs, which it unpacks once and runs from then on.
//
//	skiff-dist OUTPUT DIRECTORY VERSION   write a copy of itself with the directory
//
// A copy with a directory is `skiff` in it, whatever its arguments.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/skiff-k8s/skiff/cmd/skiff-dist/bundle"
)

const (
	// envVersions moves the directory of unpacked versions.
	envVersions = "SKIFF_VERSIONS_DIR"
	// envState moves all that skiff keeps; versions are below it.
	envState = "SKIFF_STATE_DIR"
	state    = "/var/lib/skiff"
	// program is called in the unpacked directory.
	program = "skiff"
	// packer is what this program is called before it carries anything.
	packer = "skiff-dist"
)

func main() {
	if err := run(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		if errors.Is(err, fs.ErrPermission) {
			fmt.Fprintf(os.Stderr, "  Mend: run it once as root, or set %s to a directory of your own\n", envVersions)
		}
		os.Exit(1)
	}
}

func run(args []string) error {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer self.Close()
	info, err := self.Stat()
	if err != nil {
		return err
	}
	carried, err := bundle.Open(self, info.Size())
	if errors.Is(err, bundle.ErrNone) && filepath.Base(args[0]) == packer {
		return pack(self, args)
	}
	if err != nil {
		return fmt.Errorf("%w: the file is cut short; download it again", err)
	}
	dir, err := carried.Ensure(versions())
	if err != nil {
		return fmt.Errorf("unpack %s: %w", carried.Name, err)
	}
	path := filepath.Join(dir, program)
	if err := syscall.Exec(path, args, os.Environ()); err != nil {
		return fmt.Errorf("run %s: %w", path, err)
	}
	return nil
}

func versions() string {
	if dir := os.Getenv(envVersions); dir != "" {
		return dir
	}
	if dir := os.Getenv(envState); dir != "" {
		return filepath.Join(dir, "versions")
	}
	return state + "/versions"
}

// pack writes the copy aside and renames it.
func pack(self *os.File, args []string) (err error) {
	if len(args) != 4 {
		return errors.New("usage: skiff-dist OUTPUT DIRECTORY VERSION")
	}
	output, dir, version := args[1], args[2], args[3]
	tmp, err := os.OpenFile(output+".new", os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o755)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp.Name()))
		}
	}()
	defer tmp.Close()
	if _, err := tmp.ReadFrom(self); err != nil {
		return err
	}
	name, err := bundle.Pack(tmp, dir, version)
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	fmt.Println(name)
	return os.Rename(tmp.Name(), output)
}
