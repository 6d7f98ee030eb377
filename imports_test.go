// Package coffer has no code of its own; its tests hold for the module as a whole.
package coffer

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// layers are the packages of the program from the top down. A package imports only from lines below its own: what is
// on one line does not know of each other.
var layers = [][]string{
	{"cmd/coffer"},
	{"server"},
	{"api"},
	{"api/cofferpb", "api/v3lockpb", "api/v3electionpb"},
	{"raftnode"},
	{"store"},
	{"lease", "auth", "watch"},
	{"mvcc", "journal"},
	{"seal"},
	{"keyring"},
	{"kms", "identity", "config"},
}

const module = "github.com/cofferkv/coffer/"

func TestPackagesImportOnlyFromBelow(t *testing.T) {
	layer := map[string]int{}
	for i, line := range layers {
		for _, name := range line {
			layer[name] = i
		}
	}
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); file != "." && (strings.HasPrefix(name, ".") || name == "test" || name == "testdata" || name == "bin") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		pkg := path.Dir(filepath.ToSlash(file))
		own, ok := layer[pkg]
		if !ok {
			t.Errorf("package %s has no line in the order of packages", pkg)
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			imported, ours := strings.CutPrefix(imported, module)
			if !ours {
				continue
			}
			below, ok := layer[imported]
			switch {
			case !ok:
				t.Errorf("%s imports %s, which is no part of the program", file, imported)
			case below <= own:
				t.Errorf("%s imports %s, which is not below %s", file, imported, pkg)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
