package keyring

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// ProtectProcess keeps this process's memory, and the keys in it, from core
// dumps and from other processes of the same user: RLIMIT_CORE 0 and
// PR_SET_DUMPABLE 0. The server calls it before it opens a KEK.
//
// A side effect: /proc/self belongs to root from then on, so a server that runs
// as another user cannot count its own open files.
func ProtectProcess() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("keyring: switch off core dumps: set RLIMIT_CORE to 0: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("keyring: switch off core dumps: set PR_SET_DUMPABLE to 0: %w", err)
	}
	return nil
}
