package kms

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"
)

// vmFlags returns the kernel's flags of the mapping that b lies in.
func vmFlags(t *testing.T, b []byte) string {
	t.Helper()
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	at, inside := uintptr(unsafe.Pointer(&b[0])), false
	for sc := bufio.NewScanner(f); sc.Scan(); {
		var lo, hi uintptr
		if n, _ := fmt.Sscanf(sc.Text(), "%x-%x ", &lo, &hi); n == 2 {
			inside = lo <= at && at < hi
		}
		if flags, ok := strings.CutPrefix(sc.Text(), "VmFlags:"); ok && inside {
			return flags
		}
	}
	t.Fatal("the mapping is not in /proc/self/smaps")
	return ""
}
