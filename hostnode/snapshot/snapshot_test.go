package snapshot

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var content = map[string]string{
	EtcdFile: strings.Repeat("database ", 1000), RecordFile: "{}", "pki/ca.key": "secret", "etc/audit-policy.yaml": "rules: []",
}

func make1(t testing.TB, s Store, name string) *Manifest {
	t.Helper()
	d, err := s.Draft(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Discard(); err != nil {
			t.Error(err)
		}
	}()
	for path, data := range content {
		if err := WriteFile(filepath.Join(d.Dir(), path), []byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	m, err := d.Publish(Manifest{Cluster: "dev", ClusterID: "id", Nodes: 1, Version: "v1", Created: time.Unix(1000, 0).UTC()})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func newStore(t testing.TB) Store { return Store{Dir: filepath.Join(t.TempDir(), "snapshots")} }

func files(t *testing.T, s Store) []string {
	t.Helper()
	var all []string
	_ = filepath.WalkDir(s.Dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			all = append(all, path)
		}
		return nil
	})
	return all
}

func TestASnapshotIsRootsAloneAndIsGoneAfterItsDelete(t *testing.T) {
	s := newStore(t)
	make1(t, s, "one")
	m, err := s.Get("one")
	if err != nil || len(m.Files) != len(content) || m.Cluster != "dev" {
		t.Fatalf("%+v, %v", m, err)
	}
	if err := s.Verify(m); err != nil {
		t.Error(err)
	}
	for _, path := range files(t, s) {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	if _, err := s.Draft("one"); !errors.Is(err, ErrExists) {
		t.Errorf("a second of that name: %v", err)
	}
	if err := s.Delete("one"); err != nil {
		t.Fatal(err)
	}
	if left := files(t, s); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := s.Get("one"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if err := s.Delete("one"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

func TestWhatIsHalfMadeIsSweptWhenItsMakerIsGone(t *testing.T) {
	s := newStore(t)
	d, err := s.Draft("half")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(s.Dir, ".old"+deletedSuffix, "pki"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(); err != nil {
		t.Fatal(err)
	}
	if got := files(t, s); len(got) != 2 || got[1] != d.Dir() {
		t.Errorf("what is being made is still there, and nothing else: %v", got)
	}
	if _, err := s.Draft("half"); !errors.Is(err, ErrExists) {
		t.Errorf("made by two: %v", err)
	}
	d.lock.Close() // as the kernel does when the maker dies
	if list, err := s.List(); len(list) > 0 || err != nil {
		t.Errorf("listed: %v, %v", list, err)
	}
	if err := s.Sweep(); err != nil {
		t.Fatal(err)
	}
	if left := files(t, s); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestOneThatCannotBeReadHidesNoOther(t *testing.T) {
	s := newStore(t)
	make1(t, s, "good")
	for name, text := range map[string]string{"broken": "{", "newer": `{"format": 2, "files": "of another kind"}`} {
		if err := WriteFile(filepath.Join(s.Path(name), manifestFile), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	list, err := s.List()
	if err != nil || len(list) != 3 || list[2].Name != "good" || list[2].Cluster != "dev" {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := s.Get("newer"); !errors.Is(err, ErrNewer) {
		t.Error(err)
	}
	if _, err := s.Get("broken"); !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
}

func TestVerifyFindsEveryChange(t *testing.T) {
	for name, change := range map[string]func(path string) error{
		"a bit":     func(p string) error { return os.WriteFile(p, []byte("Secret"), 0o600) },
		"an end":    func(p string) error { return os.Truncate(p, 3) },
		"a file":    os.Remove,
		"a symlink": func(p string) error { return errors.Join(os.Remove(p), os.Symlink("/etc/passwd", p)) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			m := make1(t, s, "one")
			if err := change(filepath.Join(s.Path("one"), "pki/ca.key")); err != nil {
				t.Fatal(err)
			}
			if err := s.Verify(m); err == nil || !strings.Contains(err.Error(), "pki/ca.key") {
				t.Errorf("%v", err)
			}
			if err := s.Export(m, &bytes.Buffer{}); name != "a symlink" && err == nil {
				t.Error("exported a damaged snapshot")
			}
		})
	}
}

func export(t testing.TB) []byte {
	t.Helper()
	s := newStore(t)
	var out bytes.Buffer
	if err := s.Export(make1(t, s, "one"), &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// importInto does what `skiff snapshot import` does.
func importInto(s Store, data []byte) (*Manifest, error) {
	a, err := ReadArchive(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	d, err := s.Draft(a.Manifest.Name)
	if err != nil {
		return nil, err
	}
	if err := a.Extract(d); err != nil {
		return nil, errors.Join(err, d.Discard())
	}
	m, err := d.Publish(a.Manifest)
	return m, errors.Join(err, d.Discard())
}

func TestAnExportImportsAsTheSame(t *testing.T) {
	s := newStore(t)
	m, err := importInto(s, export(t))
	if err != nil || m.Cluster != "dev" || !m.Created.Equal(time.Unix(1000, 0)) {
		t.Fatalf("%+v, %v", m, err)
	}
	if err := s.Verify(m); err != nil {
		t.Error(err)
	}
	for path, want := range content {
		if got, err := os.ReadFile(filepath.Join(s.Path("one"), path)); string(got) != want || err != nil {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
}

func TestEveryCutAndEveryFlippedByteIsRefused(t *testing.T) {
	good := export(t)
	s := newStore(t)
	refused := func(what string, i int, data []byte) {
		t.Helper()
		m, err := importInto(s, data)
		if err == nil {
			// gzip's header has bytes that mean nothing.
			if err := s.Verify(m); err != nil || what == "cut" {
				t.Errorf("%s at %d of %d: imported %+v, %v", what, i, len(good), m, err)
			}
			if err := s.Delete("one"); err != nil {
				t.Fatal(err)
			}
			return
		}
		if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
			t.Errorf("%s at %d: %v", what, i, err)
		}
		if left := files(t, s); len(left) > 0 {
			t.Fatalf("%s at %d: left behind %v", what, i, left)
		}
	}
	for i := range good {
		refused("cut", i, good[:i])
		flipped := bytes.Clone(good)
		flipped[i] ^= 0x10
		refused("flip", i, flipped)
	}
}

// archive packs entries under a manifest that lists files.
func archive(t testing.TB, m Manifest, entries ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	w := tar.NewWriter(zip)
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	entries = append([]tar.Header{{Name: manifestFile, Size: int64(len(data)), Typeflag: tar.TypeReg}}, entries...)
	for i, h := range entries {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			data = make([]byte, h.Size)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), zip.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestAnArchiveWritesNowhereElse(t *testing.T) {
	empty := "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	base := []File{{EtcdFile, 0, empty}, {RecordFile, 0, empty}}
	entries := []tar.Header{{Name: EtcdFile, Typeflag: tar.TypeReg}, {Name: RecordFile, Typeflag: tar.TypeReg}}
	manifest := func(extra ...File) Manifest {
		m := Manifest{Format: 1, Name: "one", Files: append(append([]File{}, base...), extra...)}
		for _, f := range extra {
			m.Bytes += f.Size
		}
		return m
	}
	if m, err := importInto(newStore(t), archive(t, manifest(), entries...)); err != nil {
		t.Fatalf("the harmless one: %+v, %v", m, err)
	}
	newer, named := manifest(), manifest()
	newer.Format, named.Name = 2, "../one"
	for name, data := range map[string][]byte{
		"a path upwards":             archive(t, manifest(File{"pki/../../evil", 0, empty}), entries...),
		"an absolute path":           archive(t, manifest(File{"/evil", 0, empty}), entries...),
		"a path of another place":    archive(t, manifest(File{"machines/x", 0, empty}), entries...),
		"a hidden file":              archive(t, manifest(File{"pki/.x", 0, empty}), entries...),
		"a file twice":               archive(t, manifest(base[0]), entries...),
		"a negative size":            archive(t, manifest(File{"pki/x", -1, empty}), entries...),
		"a name upwards":             archive(t, named, entries...),
		"no database":                archive(t, Manifest{Format: 1, Name: "one", Files: base[1:]}, entries[1]),
		"an entry that is not in it": archive(t, manifest(), append(append([]tar.Header{}, entries...), tar.Header{Name: "pki/x", Typeflag: tar.TypeReg})...),
		"a link":                     archive(t, manifest(File{"pki/x", 0, empty}), append(append([]tar.Header{}, entries...), tar.Header{Name: "pki/x", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"})...),
		"another file in its place":  archive(t, manifest(), entries[1], entries[0]),
		"another size":               archive(t, manifest(), tar.Header{Name: EtcdFile, Typeflag: tar.TypeReg, Size: 3}, entries[1]),
		"a newer format":             archive(t, newer, entries...),
		"no archive":                 []byte("hello"),
		"nothing":                    nil,
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			m, err := importInto(s, data)
			want := ErrDamaged
			if name == "a newer format" {
				want = ErrNewer
			}
			if !errors.Is(err, want) {
				t.Errorf("%+v, %v", m, err)
			}
			if all := files(t, Store{Dir: filepath.Dir(s.Dir)}); len(all) > 1 {
				t.Errorf("wrote %v", all[1:])
			}
		})
	}
}

// FuzzImport: whatever the bytes, nothing is written outside of the store, and
// what is imported verifies.
func FuzzImport(f *testing.F) {
	f.Add(export(f))
	f.Add(archive(f, Manifest{Format: 1, Name: "one"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := newStore(t)
		m, err := importInto(s, data)
		if err == nil {
			err = s.Verify(m)
			if err != nil {
				t.Error(err)
			}
			return
		}
		if all := files(t, Store{Dir: filepath.Dir(s.Dir)}); len(all) > 1 {
			t.Errorf("%v, and left %v", err, all[1:])
		}
	})
}

// FuzzManifest: what passes has only paths inside.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"format":1,"name":"a","bytes":1,"files":[{"path":"etcd.db","size":1},{"path":"cluster.json"},{"path":"pki/ca.crt"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseManifest(data)
		if err != nil {
			return
		}
		for _, file := range m.Files {
			if !filepath.IsLocal(file.Path) || strings.Count(file.Path, "/") > 1 {
				t.Errorf("%q", file.Path)
			}
		}
	})
}
