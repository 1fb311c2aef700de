package snapshot

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// maxManifest bounds what Import reads before it knows anything.
const maxManifest = 1 << 20

// Export writes a snapshot as one gzipped tar file, the manifest first. Each
// file is compared with the manifest on its way.
func (s Store) Export(m *Manifest, w io.Writer) error {
	if err := s.export(m, w); err != nil {
		return fmt.Errorf("export snapshot %q: %w", m.Name, err)
	}
	return nil
}

func (s Store) export(m *Manifest, w io.Writer) error {
	// Fast: databases are big, and what compresses well does so at any level.
	zip, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	out := tar.NewWriter(zip)
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := writeHeader(out, manifestFile, int64(len(data)), m.Created); err != nil {
		return err
	}
	if _, err := out.Write(data); err != nil {
		return err
	}
	for _, f := range m.Files {
		if err := s.exportFile(m, f, out); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	return errors.Join(out.Close(), zip.Close())
}

func (s Store) exportFile(m *Manifest, f File, out *tar.Writer) error {
	in, err := os.Open(filepath.Join(s.Path(m.Name), f.Path))
	if err != nil {
		return err
	}
	defer in.Close()
	if err := writeHeader(out, f.Path, f.Size, m.Created); err != nil {
		return err
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, sum), io.LimitReader(in, f.Size))
	if err != nil {
		return err
	}
	if n != f.Size || hex.EncodeToString(sum.Sum(nil)) != f.SHA256 {
		return fmt.Errorf("%w: its checksum is another", ErrDamaged)
	}
	return nil
}

func writeHeader(out *tar.Writer, name string, size int64, t time.Time) error {
	return out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: t})
}

// ReadArchive begins to read what Export wrote: it describes the snapshot.
func ReadArchive(r io.Reader) (*Archive, error) {
	zip, err := gzip.NewReader(r)
	if err != nil {
		return nil, damaged(err)
	}
	a := &Archive{zip: zip, tar: tar.NewReader(zip)}
	h, err := a.tar.Next()
	if err != nil {
		return nil, damaged(err)
	}
	if h.Name != manifestFile || h.Size > maxManifest {
		return nil, fmt.Errorf("%w: it does not begin with a %s", ErrDamaged, manifestFile)
	}
	data, err := io.ReadAll(io.LimitReader(a.tar, maxManifest))
	if err != nil {
		return nil, damaged(err)
	}
	m, err := parseManifest(data)
	if err != nil {
		return nil, err
	}
	a.Manifest = *m
	return a, nil
}

// Archive is a file that Export wrote, while it is read.
type Archive struct {
	Manifest Manifest
	zip      *gzip.Reader
	tar      *tar.Reader
}

// Extract writes the files into a draft. Only what the manifest lists, in its
// order and with its checksums, is written anywhere.
func (a *Archive) Extract(d *Draft) error {
	for _, want := range a.Manifest.Files {
		h, err := a.tar.Next()
		if err != nil {
			return damaged(err)
		}
		if h.Typeflag != tar.TypeReg || h.Name != want.Path || h.Size != want.Size {
			return fmt.Errorf("%w: there is a %q where %s belongs", ErrDamaged, h.Name, want.Path)
		}
		if err := a.extractFile(d, want); err != nil {
			return fmt.Errorf("%s: %w", want.Path, err)
		}
	}
	if h, err := a.tar.Next(); err == nil {
		return fmt.Errorf("%w: there is a %q too much", ErrDamaged, h.Name)
	} else if !errors.Is(err, io.EOF) {
		return damaged(err)
	}
	// To the end of the compressed stream, where its own checksum is.
	if _, err := io.Copy(io.Discard, io.LimitReader(a.zip, maxManifest)); err != nil {
		return damaged(err)
	}
	return nil
}

func (a *Archive) extractFile(d *Draft, want File) (err error) {
	path := filepath.Join(d.Dir(), filepath.FromSlash(want.Path)) // its form is checked with the manifest
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, sum), reading{a.tar})
	if err != nil {
		return err
	}
	if n != want.Size || hex.EncodeToString(sum.Sum(nil)) != want.SHA256 {
		return fmt.Errorf("%w: its checksum is another", ErrDamaged)
	}
	return out.Sync()
}

// reading marks errors of the archive, so that a full disk is not called a
// damage.
type reading struct{ io.Reader }

func (r reading) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = damaged(err)
	}
	return n, err
}

// damaged is err of an archive that ends too early or is none.
func damaged(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}
