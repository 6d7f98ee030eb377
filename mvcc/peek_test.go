package mvcc

import (
	"crypto/sha256"
	"io"
	"maps"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func TestReadingTheDurableAppliedIndexChangesNoFile(t *testing.T) {
	mem := vfs.NewMem()
	o := Options{FS: mem, Dir: "db"}
	db, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	b := db.Begin()
	txn := b.Txn()
	txn.Put([]byte("k"), []byte("v"), 0)
	txn.End()
	if _, err := b.Commit(41, 3); err != nil {
		t.Fatal(err)
	}
	if err := db.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	sums := func() map[string][32]byte {
		names, err := mem.List("db")
		if err != nil {
			t.Fatal(err)
		}
		m := map[string][32]byte{}
		for _, name := range names {
			f, err := mem.Open(mem.PathJoin("db", name))
			if err != nil {
				t.Fatal(err)
			}
			content, err := io.ReadAll(f)
			f.Close()
			if err != nil {
				t.Fatal(err)
			}
			m[name] = sha256.Sum256(content)
		}
		return m
	}
	before := sums()
	if index, err := DurableAppliedIn(o); err != nil || index != 41 {
		t.Errorf("index %d, %v; 41 was applied", index, err)
	}
	if !maps.Equal(before, sums()) {
		t.Error("files were changed by reading")
	}
}
