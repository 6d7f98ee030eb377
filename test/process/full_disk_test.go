package process

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestAFullDiskStopsWritesAndNothingElse puts a member on a small ext4 of its
// own and writes until it is full.
func TestAFullDiskStopsWritesAndNothingElse(t *testing.T) {
	disk := smallDisk(t, 400) // unmounted after the member has ended
	m := newCoffer(t)
	m.data = filepath.Join(disk, "data")
	m.start(t)
	c := m.client(t)
	random := make([]byte, 256<<10) // what can be compressed would not fill the disk
	rand.Read(random)
	value := string(random)
	written := 0
	var refused error
	for ; written < 4000; written++ {
		if _, refused = c.Put(t.Context(), fmt.Sprintf("key-%04d", written), value); refused != nil {
			break
		}
	}
	if !errors.Is(refused, rpctypes.ErrNoSpace) {
		select {
		case <-m.gone:
			t.Logf("the member ended: %v", m.cmd.ProcessState)
			m.start(t)
		default:
			t.Fatalf("after %d writes the disk is full and a write answers: %v\n%s", written, refused, m.tail())
		}
	}
	if written < 50 {
		t.Fatalf("only %d writes fitted", written)
	}
	got, err := c.Get(t.Context(), "key-", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil || got.Count < int64(written) {
		t.Fatalf("%d writes were acknowledged; a read on the full disk: %v, %v", written, got, err)
	}
	alarms, err := c.AlarmList(t.Context())
	if err != nil || len(alarms.Alarms) == 0 {
		t.Fatalf("no alarm is raised: %v, %v", alarms, err)
	}
	m.kill()
	m.start(t)
	if got, err = c.Get(t.Context(), "key-", clientv3.WithPrefix(), clientv3.WithCountOnly()); err != nil || got.Count < int64(written) {
		t.Fatalf("after a restart on the full disk: %v, %v", got, err)
	}

	// The way out that etcd's operators know: delete, compact, defragment, disarm.
	del, err := c.Delete(t.Context(), "key-", clientv3.WithPrefix())
	if err != nil {
		t.Fatalf("delete on the full disk: %v", err)
	}
	if _, err := c.Compact(t.Context(), del.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatalf("compact on the full disk: %v", err)
	}
	if _, err := c.Defragment(t.Context(), m.endpoint); err != nil {
		t.Fatalf("defragment on the full disk: %v", err)
	}
	if _, err := c.AlarmDisarm(t.Context(), &clientv3.AlarmMember{}); err != nil {
		t.Fatalf("disarm: %v", err)
	}
	if _, err := c.Put(t.Context(), "after", "the flood"); err != nil {
		t.Fatalf("a write after the space was given back: %v\n%s", err, m.tail())
	}
}

// smallDisk mounts a new ext4 of the given size (MiB) and returns its root.
func smallDisk(t *testing.T, mib int) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a file system of one's own takes root")
	}
	dir := t.TempDir()
	image, root := filepath.Join(dir, "image"), filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(image)
	if err == nil {
		err = f.Truncate(int64(mib) << 20)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"mkfs.ext4", "-q", "-F", image}, {"mount", "-o", "loop", image, root}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", root).CombinedOutput(); err != nil {
			t.Errorf("umount: %v\n%s", err, out)
		}
	})
	return root
}
