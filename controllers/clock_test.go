package controllers_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// wall are the functions of package time that ask the machine's clock or wait
// by it.
var wall = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTicker", "NewTimer"}

// TestTimeIsTheClusters: controllers take the time from the clock they are
// given, as the cluster's will be movable.
func TestTimeIsTheClusters(t *testing.T) {
	files := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path == "apitest" && d.IsDir():
			return filepath.SkipDir // it times tests
		case d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, 0)
		if err != nil {
			return err
		}
		files++
		for _, use := range wallTime(file) {
			t.Errorf("%s: the machine's clock, want the one from the configuration", set.Position(use))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 50 {
		t.Errorf("read %d files only", files)
	}
}

// wallTime is where a file uses what it must not.
func wallTime(file *ast.File) (uses []token.Pos) {
	name := ""
	for _, i := range file.Imports {
		if i.Path.Value == `"time"` {
			name = "time"
			if i.Name != nil {
				name = i.Name.Name
			}
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && name != "" && x.Name == name && slices.Contains(wall, s.Sel.Name) {
				uses = append(uses, s.Pos())
			}
		}
		return true
	})
	return uses
}

func TestWallTimeIsFound(t *testing.T) {
	for source, want := range map[string]int{
		"package p\nimport \"time\"\nvar t = time.Now()":                  1,
		"package p\nimport clock \"time\"\nvar f = clock.Sleep":           1,
		"package p\nimport \"time\"\nvar d = time.Second":                 0,
		"package p\nimport time \"k8s.io/utils/clock\"\nvar t = time.Now": 0,
	} {
		file, err := parser.ParseFile(token.NewFileSet(), "", source, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(wallTime(file)); got != want {
			t.Errorf("%d uses, want %d in\n%s", got, want, source)
		}
	}
}
