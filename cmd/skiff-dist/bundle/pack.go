package bundle

import (
	"archive/zip"
	"compress/flate"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// packed is the time of every file: an unpacked file that was written to
// later has another. Zip's own resolution is two seconds.
var packed = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// Pack appends the regular files of dir to a program. The bundle is called
// version and a digest, so that no two builds share a directory.
func Pack(program io.ReadWriteSeeker, dir, version string) (name string, err error) {
	offset, err := program.Seek(0, io.SeekEnd)
	if err != nil {
		return "", err
	}
	w := zip.NewWriter(program)
	w.SetOffset(offset)
	w.RegisterCompressor(zip.Deflate, func(out io.Writer) (io.WriteCloser, error) { return flate.NewWriter(out, flate.BestCompression) })
	digest := sha256.New()
	files := os.DirFS(dir)
	err = fs.WalkDir(files, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%s: not a regular file", path)
		}
		header := &zip.FileHeader{Name: path, Method: zip.Deflate, Modified: packed}
		header.SetMode(info.Mode().Perm())
		fmt.Fprintf(digest, "%s %o %d\n", path, header.Mode(), info.Size())
		return add(w, header, files, digest)
	})
	if err != nil {
		return "", fmt.Errorf("pack %s: %w", dir, err)
	}
	const enough = 6 // bytes: builds of one version on one host
	name = version + "-" + hex.EncodeToString(digest.Sum(nil)[:enough])
	return name, errors.Join(w.SetComment(name), w.Close())
}

func add(w *zip.Writer, header *zip.FileHeader, files fs.FS, digest io.Writer) error {
	f, err := files.Open(header.Name)
	if err != nil {
		return err
	}
	defer f.Close()
	to, err := w.CreateHeader(header)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.MultiWriter(to, digest), f)
	return err
}
