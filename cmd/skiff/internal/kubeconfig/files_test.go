package kubeconfig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

const admin = `apiVersion: v1
kind: Config
clusters:
- name: whatever
  cluster: {server: "https://127.0.0.1:4711", certificate-authority-data: Q0E=}
users:
- name: admin
  user: {client-certificate-data: Q0VSVA==, client-key-data: S0VZ}
contexts:
- name: some
  context: {cluster: whatever, user: admin}
current-context: some
`

const others = `# mine, do not touch
apiVersion: v1
kind: Config
preferences: {colors: true}
clusters:
# production!
- cluster:
    server: https://prod.example.org
  name: prod
contexts:
- context:
    cluster: prod
    namespace: shop
    user: me
  name: prod
current-context: prod
users:
- name: me
  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1
      command: login # with a comment
      args: ["--port", "08"]
`

func TestMergedEntriesAreTheClustersAndOnlyTheirs(t *testing.T) {
	for name, before := range map[string]string{
		"no file":                       "",
		"somebody else's":               others,
		"an empty object":               "{}\n",
		"empty lists":                   "apiVersion: v1\nkind: Config\nclusters: []\nusers: null\ncontexts:\n",
		"JSON":                          `{"apiVersion":"v1","kind":"Config","clusters":[{"name":"prod","cluster":{"server":"https://prod"}}],"current-context":"prod"}`,
		"an older cluster of that name": strings.NewReplacer("whatever", "skiff-dev", "admin", "skiff-dev", "some", "skiff-dev").Replace(admin),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "sub", "config")
			if before != "" {
				write(t, path, before)
			}
			f := Files{Explicit: path}
			got, err := f.Merge(t.Context(), "skiff-dev", []byte(admin))
			if err != nil || got != path {
				t.Fatal(got, err)
			}
			if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
			c := read(t, path)
			if c.APIVersion != "v1" || c.Kind != "Config" || c.CurrentContext != "skiff-dev" {
				t.Errorf("head: %+v", c)
			}
			e := c.Contexts[len(c.Contexts)-1]
			if c.find("skiff-dev") != 1 || e.Context["cluster"] != "skiff-dev" && before != "" || c.server("skiff-dev") != "https://127.0.0.1:4711" {
				t.Errorf("have %+v", c)
			}
			if before == others && (c.server("prod") != "https://prod.example.org" || c.Users[0].Name != "me") {
				t.Errorf("others' entries changed: %+v", c)
			}

			first, _ := os.ReadFile(path)
			if _, err := f.Merge(t.Context(), "skiff-dev", []byte(admin)); err != nil {
				t.Fatal(err)
			}
			if again, _ := os.ReadFile(path); string(again) != string(first) {
				t.Errorf("the second merge changed the file:\n%s\n%s", first, again)
			}

			if err := f.Remove(t.Context(), "skiff-dev"); err != nil {
				t.Fatal(err)
			}
			left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*"))
			if !strings.Contains(before, "prod") {
				if len(left) != 0 {
					t.Errorf("nothing of anybody is in %v", left)
				}
				return
			}
			if c := read(t, path); c.find("skiff-dev") != 0 || c.CurrentContext != "" || c.server("prod") == nil {
				t.Errorf("left: %+v", c)
			}
			if len(left) != 1 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestOthersTextStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	write(t, path, others)
	f := Files{Explicit: path}
	if _, err := f.Merge(t.Context(), "skiff-dev", []byte(admin)); err != nil {
		t.Fatal(err)
	}
	if err := f.Remove(t.Context(), "skiff-dev"); err != nil {
		t.Fatal(err)
	}
	raw, _ := os.ReadFile(path)
	want := strings.Replace(others, "current-context: prod", `current-context: ""`, 1)
	if string(raw) != want {
		t.Errorf("want:\n%s\nhave:\n%s", want, raw)
	}
}

func TestRemoveLeavesFilesAloneThatDoNotKnowTheCluster(t *testing.T) {
	dir := t.TempDir()
	mine := filepath.Join(dir, "mine")
	write(t, mine, others)
	if err := os.Chmod(mine, 0o640); err != nil {
		t.Fatal(err)
	}
	f := Files{List: mine + ":" + filepath.Join(dir, "absent", "config")}
	if err := f.Remove(t.Context(), "skiff-dev"); err != nil {
		t.Fatal(err)
	}
	if raw, _ := os.ReadFile(mine); string(raw) != others {
		t.Error("file changed")
	}
	if info, _ := os.Stat(mine); info.Mode() != 0o640 {
		t.Error("mode changed")
	}
	if _, err := os.Stat(filepath.Join(dir, "absent")); err == nil {
		t.Error("a directory was made")
	}
}

func TestTargetIsTheFileThatKubectlWouldChange(t *testing.T) {
	dir := t.TempDir()
	second := filepath.Join(dir, "second")
	write(t, second, "")
	for name, tc := range map[string]struct {
		files Files
		want  string
	}{
		"the flag wins":                {Files{Explicit: "/x", List: second, Home: dir}, "/x"},
		"the first file that exists":   {Files{List: dir + "/first:" + second + ":/third", Home: dir}, second},
		"the last file of none":        {Files{List: dir + "/a::" + dir + "/b", Home: dir}, dir + "/b"},
		"the home directory at last":   {Files{Home: dir}, dir + "/.kube/config"},
		"a list of nothing is no list": {Files{List: ":", Home: dir}, dir + "/.kube/config"},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := tc.files.Target(); err != nil || got != tc.want {
				t.Errorf("want %s, have %s, %v", tc.want, got, err)
			}
		})
	}
	if _, err := (Files{}).Target(); err == nil {
		t.Error("no home directory, no error")
	}
}

func TestBrokenFilesStayAsTheyAre(t *testing.T) {
	for name, broken := range map[string]string{"no YAML": "a: [\n", "a list": "- skiff-dev\n", "no list": "clusters: {skiff-dev: 1}\n"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config")
			write(t, path, broken)
			_, err := Files{Explicit: path}.Merge(t.Context(), "skiff-dev", []byte(admin))
			var m interface{ Mend() string }
			if err == nil || !strings.Contains(err.Error(), path) || !errors.As(err, &m) || !strings.Contains(m.Mend(), "repair") {
				t.Errorf("error %v", err)
			}
			if raw, _ := os.ReadFile(path); string(raw) != broken {
				t.Errorf("file is now %q", raw)
			}
			if left, _ := filepath.Glob(path + "*"); len(left) != 1 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestLinksStayLinks(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "real"), filepath.Join(dir, "config")
	write(t, target, others)
	if err := os.Symlink("real", link); err != nil {
		t.Fatal(err)
	}
	if _, err := (Files{Explicit: link}).Merge(t.Context(), "skiff-dev", []byte(admin)); err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Lstat(link); info.Mode()&os.ModeSymlink == 0 {
		t.Error("the link became a file")
	}
	if c := read(t, target); c.find("skiff-dev") != 1 {
		t.Error("the file that the link names has no entry")
	}
}

func TestManyAtOnceLoseNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			if _, err := (Files{Explicit: path, LockWait: time.Minute}).Merge(t.Context(), fmt.Sprint("skiff-", i), []byte(admin)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if c := read(t, path); len(c.Clusters) != 16 || len(c.Users) != 16 || len(c.Contexts) != 16 {
		t.Errorf("have %d clusters", len(c.Clusters))
	}
}

func TestAForeignLockIsWaitedForAndRespected(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	write(t, path+".lock", "")
	f := Files{Explicit: path, LockWait: 20 * time.Millisecond}
	_, err := f.Merge(t.Context(), "skiff-dev", []byte(admin))
	var m interface{ Mend() string }
	if err == nil || !errors.As(err, &m) || !strings.Contains(m.Mend(), "rm "+path+".lock") {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(path + ".lock"); err != nil {
		t.Error("the other's lock is gone")
	}
	f.LockWait = time.Minute
	go func() {
		time.Sleep(20 * time.Millisecond)
		os.Remove(path + ".lock")
	}()
	if _, err := f.Merge(t.Context(), "skiff-dev", []byte(admin)); err != nil {
		t.Error(err)
	}
	write(t, path+".lock", "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Merge(ctx, "skiff-dev", []byte(admin)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

type named struct {
	Name    string
	Cluster map[string]any
	Context map[string]any
}

type config struct {
	APIVersion     string `yaml:"apiVersion"`
	Kind           string
	Clusters       []named
	Contexts       []named
	Users          []named
	CurrentContext string `yaml:"current-context"`
}

// find counts the clusters called name, and -1 if contexts and users differ.
func (c config) find(name string) int {
	count := func(list []named) (n int) {
		for _, e := range list {
			if e.Name == name {
				n++
			}
		}
		return n
	}
	n := count(c.Clusters)
	if count(c.Contexts) != n || count(c.Users) != n {
		return -1
	}
	return n
}

func (c config) server(name string) any {
	for _, e := range c.Clusters {
		if e.Name == name {
			return e.Cluster["server"]
		}
	}
	return nil
}

func read(t *testing.T, path string) config {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var c config
	if err := yaml.Unmarshal(raw, &c); err != nil {
		t.Fatalf("%v\n%s", err, raw)
	}
	return c
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestRefreshRenewsTheCertificateOfTheSameClusterOnly(t *testing.T) {
	renewed := strings.NewReplacer("Q0VSVA==", "TkVX", "S0VZ", "TkVXS0VZ").Replace(admin)
	token := strings.Replace(admin, "client-certificate-data: Q0VSVA==, client-key-data: S0VZ", "token: mine", 1)
	for name, tt := range map[string]struct {
		raw     string
		change  func(string) string
		changed bool
	}{
		"a new certificate":            {raw: renewed, changed: true},
		"the same one":                 {raw: admin},
		"another cluster of that name": {raw: strings.Replace(renewed, "Q0E=", "T1RIRVI=", 1)},
		"a user who took a token": {raw: renewed, change: func(string) string {
			return strings.ReplaceAll(strings.ReplaceAll(token, "whatever", "skiff-dev"), "name: admin", "name: skiff-dev")
		}},
		"a file without the context":    {raw: renewed, change: func(string) string { return others }},
		"no file":                       {raw: renewed, change: func(string) string { return "" }},
		"something that is none at all": {raw: renewed, change: func(string) string { return "skiff-dev: [" }},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config")
			write(t, path, others)
			f := Files{Explicit: path}
			if _, err := f.Merge(t.Context(), "skiff-dev", []byte(admin)); err != nil {
				t.Fatal(err)
			}
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			// Somebody works with another context now.
			before := strings.Replace(string(raw), "current-context: skiff-dev", "current-context: prod", 1)
			if tt.change != nil {
				before = tt.change(before)
			}
			write(t, path, before)
			if before == "" {
				os.Remove(path)
			}
			changed, err := f.Refresh(t.Context(), "skiff-dev", []byte(tt.raw))
			if err != nil || changed != tt.changed {
				t.Fatalf("%v, %v", changed, err)
			}
			after, _ := os.ReadFile(path)
			want := before
			if tt.changed {
				want = strings.NewReplacer("Q0VSVA==", "TkVX", "S0VZ", "TkVXS0VZ").Replace(before)
			}
			if string(after) != want {
				t.Errorf("was\n%s\nis\n%s", before, after)
			}
		})
	}
}
