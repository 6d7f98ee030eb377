package keyring

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
)

func newRand() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

// mask hides the words of a key that a test looks for, so that it does not find
// its own copy.
const mask = 0x5a5a_a5a5_3c3c_c3c3

// masked returns the words of a key, masked.
func masked(key []byte) (words [KeySize / 8]uint64) {
	for i := range words {
		words[i] = binary.LittleEndian.Uint64(key[8*i:]) ^ mask
	}
	return words
}

// inMemory returns how often any word of the key is found, at any offset, in all
// of this process's memory.
func inMemory(t *testing.T, words [KeySize / 8]uint64) (found int) {
	t.Helper()
	const size = 1 << 20
	buf, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	must(t, err)
	defer unix.Munmap(buf)
	own := uintptr(unsafe.Pointer(&buf[0]))
	maps, err := os.Open("/proc/self/maps")
	must(t, err)
	defer maps.Close()
	mem, err := os.Open("/proc/self/mem")
	must(t, err)
	defer mem.Close()
	zeros := make([]byte, 4096)
	for sc := bufio.NewScanner(maps); sc.Scan(); {
		var lo, hi uintptr
		var perm string
		if _, err := fmt.Sscanf(sc.Text(), "%x-%x %s", &lo, &hi, &perm); err != nil || perm[0] != 'r' || strings.Contains(sc.Text(), "[v") {
			continue
		}
		const overlap = 8
		for at := lo; at < hi; at += size - overlap {
			if at >= own-size && at < own+size {
				continue
			}
			n, _ := mem.ReadAt(buf[:min(size, hi-at)], int64(at)) // pages may be missing
			for i := 0; i+8 <= n; i++ {
				if i%4096 == 0 && i+4096+8 <= n && bytes.Equal(buf[i:i+4096], zeros) {
					i += 4096 - 8 // most of the memory was never used
				}
				w := binary.LittleEndian.Uint64(buf[i:]) ^ mask
				for _, want := range words {
					if w == want {
						found++
					}
				}
			}
			clear(buf)
		}
	}
	return found
}

func TestARemovedKeyIsNowhereInTheProcessesMemory(t *testing.T) {
	kek := newKEK(t)
	fs := vfs.NewMem()
	kr, err := Create(fs, path, member, kek)
	must(t, err)
	kr.Close()
	kr = reopen(t, fs, kek) // as after a restart: the key was decrypted, not made
	first := kr.Active()
	words := masked(kr.cur.keys[0].secret.Bytes())
	root := masked(kr.cur.root.Bytes())
	for range 10 {
		sealed(t, kr, first)
	}
	_, err = kr.Rotate() // every change encrypts all keys again
	must(t, err)
	second := masked(kr.cur.active().secret.Bytes())
	if n := inMemory(t, words); n != len(words) {
		t.Errorf("before it is removed, %d words of the key are found, not %d, all in its own page", n, len(words))
	}
	must(t, kr.Remove(first))
	runtime.GC()
	if n := inMemory(t, words); n > 0 {
		t.Errorf("%d words of the removed key are found", n)
	}
	must(t, kr.SetKEKs(newKEK(t)))
	if n := inMemory(t, root); n > 0 {
		t.Errorf("%d words of the replaced keyring key are found", n)
	}
	kr.Close()
	if n := inMemory(t, second); n > 0 {
		t.Errorf("%d words of the active key are found after Close", n)
	}
}

// The process that this protects is one of its own: RLIMIT_CORE cannot be raised
// again.
func TestProtectProcessSwitchesOffDumps(t *testing.T) {
	if os.Getenv("COFFER_TEST_PROTECT") == "" {
		t.Skip("run by TestAProtectedProcessIsNotDumped")
	}
	must(t, ProtectProcess())
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_CORE, &limit))
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	must(t, err)
	if limit.Cur != 0 || limit.Max != 0 || dumpable != 0 {
		t.Fatalf("RLIMIT_CORE is %+v, PR_GET_DUMPABLE %d", limit, dumpable)
	}
}

func TestAProtectedProcessIsNotDumped(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.run", "^TestProtectProcessSwitchesOffDumps$", "-test.v")
	cmd.Env = append(os.Environ(), "COFFER_TEST_PROTECT=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Fatalf("%v: %s", err, out)
	}
}
