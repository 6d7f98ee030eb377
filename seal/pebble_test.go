package seal

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

func pebbleOptions(fs vfs.FS) *pebble.Options {
	return &pebble.Options{FS: fs, DisableWAL: true, FormatMajorVersion: pebble.FormatNewest, MemTableSize: 4 << 20, Logger: quiet{}}
}

type quiet struct{}

func (quiet) Infof(string, ...any)         {}
func (quiet) Errorf(string, ...any)        {}
func (quiet) Fatalf(f string, args ...any) { panic(fmt.Sprintf(f, args...)) }

func TestPebbleSmoke(t *testing.T) {
	for _, base := range []vfs.FS{vfs.NewMem(), vfs.Default} {
		dir := t.TempDir()
		base.MkdirAll(dir, 0o700)
		kr := newTestKeyring(t)
		fs := New(base, kr, Options{})
		for round := range 3 {
			db, err := pebble.Open(dir, pebbleOptions(fs))
			if err != nil {
				t.Fatal(err)
			}
			for i := range 20000 {
				k := fmt.Sprintf("key%06d", (i*7919)%20000)
				if round > 0 && i%1000 == 0 {
					v, c, err := db.Get([]byte(k))
					if err != nil || !bytes.HasPrefix(v, []byte(k)) {
						t.Fatal(k, err)
					}
					c.Close()
				}
				if err := db.Set([]byte(k), []byte(fmt.Sprintf("%s-%d-%0200d", k, round, i)), pebble.NoSync); err != nil {
					t.Fatal(err)
				}
			}
			if err := db.Flush(); err != nil {
				t.Fatal(err)
			}
			kr.Rotate()
			if err := fs.ResealAll(context.Background(), nil, dir); err != nil {
				t.Fatal(err)
			}
			if err := db.Compact(context.Background(), []byte("a"), []byte("z"), false); err != nil {
				t.Fatal(err)
			}
			u, err := fs.Inventory(dir)
			t.Log(u, err)
			ids, err := fs.RemoveUnused(dir)
			t.Log(ids, err)
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			if len(fs.open)+len(fs.unlinked)+len(fs.reseals)+len(fs.names.locks) > 0 {
				t.Fatal(fs.open, fs.unlinked, fs.reseals, fs.names.locks)
			}
		}
	}
}
