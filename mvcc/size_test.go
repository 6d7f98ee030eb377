package mvcc

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func TestTheSizeGrowsWithEveryWriteAndFallsWhenSpaceIsReclaimed(t *testing.T) {
	fs := vfs.NewMem()
	db, err := Open(Options{FS: fs, Dir: "db", MemTableBytes: 1 << 20})
	require.NoError(t, err)
	total, _ := db.Size()
	require.Less(t, total, int64(10<<10), "a new store takes next to nothing")

	rnd := rand.New(rand.NewPCG(1, 1))
	value := make([]byte, 1024)
	last := total
	const rounds, keys = 20, 100
	for i := uint64(1); i <= rounds; i++ {
		b := db.Begin()
		for k := range keys {
			fillRandom(rnd, value)
			tx := b.Txn()
			tx.Put(fmt.Append(nil, k), value, 0)
			tx.End()
		}
		_, err := b.Commit(i, 1)
		require.NoError(t, err)
		total, inUse := db.Size()
		require.GreaterOrEqual(t, total, inUse)
		require.Greater(t, inUse, last)
		if i%7 == 0 {
			require.NoError(t, db.Flush())
		}
		_, last = db.Size()
		require.InDelta(t, inUse, last, float64(inUse)/4, "a flush makes little difference")
	}
	require.Greater(t, last, int64(rounds*keys*1024))

	b := db.Begin()
	require.NoError(t, b.Compact(b.Revision()))
	_, err = b.Commit(rounds+1, 1)
	require.NoError(t, err)
	require.NoError(t, db.WaitCompacted(context.Background(), b.CompactRevision()))
	require.NoError(t, db.Reclaim(context.Background()))
	total, inUse := db.Size()
	require.Equal(t, total, inUse)
	require.Less(t, total, int64(2*keys*1024))
	require.Less(t, tableBytes(t, fs), int64(2*keys*1024))
	require.NoError(t, db.Close())
}

// tableBytes returns what the files with tables take.
func tableBytes(t *testing.T, fs vfs.FS) (n int64) {
	names, err := fs.List("db")
	require.NoError(t, err)
	for _, name := range names {
		if strings.HasSuffix(name, ".sst") {
			info, err := fs.Stat("db/" + name)
			require.NoError(t, err)
			n += info.Size()
		}
	}
	return n
}

func TestTheManifestIsKnownByNameFromTheStart(t *testing.T) {
	fs := vfs.NewMem()
	for range 3 {
		db, err := Open(Options{FS: fs, Dir: "db"})
		require.NoError(t, err)
		name := db.ManifestName()
		require.NotEmpty(t, name)
		_, err = fs.Stat("db/" + name)
		require.NoError(t, err)
		require.NoError(t, db.Close())
	}
}

func TestNoKeyOrValueIsLogged(t *testing.T) {
	const mark = "marked-secret"
	core, logs := observer.New(zapcore.DebugLevel)
	o := Options{FS: vfs.NewMem(), Dir: "db", MemTableBytes: 256 << 10, Logger: zap.New(core)}
	db, err := Open(o)
	require.NoError(t, err)
	for i := uint64(1); i <= 300; i++ {
		b := db.Begin()
		tx := b.Txn()
		tx.Put(fmt.Appendf(nil, "/registry/secrets/%s-%d", mark, i), []byte(strings.Repeat(mark, 50)), 0)
		tx.End()
		b.SetMeta(mark, []byte(mark), []byte(mark))
		if i%50 == 0 {
			require.NoError(t, b.Compact(b.Revision()))
		}
		_, err := b.Commit(i, 1)
		require.NoError(t, err)
	}
	require.NoError(t, db.WaitCompacted(context.Background(), 301))
	require.NoError(t, db.Reclaim(context.Background()))
	require.NoError(t, db.Close())
	db, err = Open(o)
	require.NoError(t, err)
	require.NoError(t, db.Close())
	require.NotEmpty(t, logs.FilterMessage("finished scheduled compaction").All())
	enc := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	for _, e := range logs.All() {
		require.Less(t, e.Level, zapcore.WarnLevel, e.Message)
		line, err := enc.EncodeEntry(e.Entry, e.Context)
		require.NoError(t, err)
		for _, m := range []string{mark, fmt.Sprintf("%x", mark)} {
			require.NotContains(t, line.String(), m)
		}
	}
}
