package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cofferkv/coffer/config"
)

const (
	// reservedFiles is how many of the process's file descriptors are kept from clients: the store ends the process
	// when it cannot open a file.
	reservedFiles = 512
)

// bind opens the listening socket of an address.
func bind(a config.Address, flag string, c *config.Config) (net.Listener, error) {
	if a.Network == "unix" {
		if err := removeStaleSocket(a.Addr); err != nil {
			return nil, fmt.Errorf("--%s: %w", flag, err)
		}
	}
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		ctlErr := raw.Control(func(fd uintptr) {
			if c.SocketReusePort {
				err = errors.Join(err, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
			}
			if c.SocketReuseAddress {
				err = errors.Join(err, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
			}
		})
		return errors.Join(ctlErr, err)
	}}
	l, err := lc.Listen(context.Background(), a.Network, a.Addr)
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return nil, fmt.Errorf("listen on %s: another process has this address: stop it, or choose another address with --%s: %w", a.Addr, flag, err)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return nil, fmt.Errorf("listen on %s: this machine has no such address: correct --%s: %w", a.Addr, flag, err)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("listen on %s: not permitted to user %d: choose a port above 1023 or a directory this user may write to, with --%s: %w", a.Addr, os.Getuid(), flag, err)
	case err != nil:
		return nil, fmt.Errorf("listen on %s (--%s): %w", a.Addr, flag, err)
	}
	return l, nil
}

// removeStaleSocket removes a socket that nobody listens on any more.
func removeStaleSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("%s exists and is no socket: remove it, or choose another path", path)
	}
	if conn, err := net.Dial("unix", path); err == nil {
		_ = conn.Close()
		return fmt.Errorf("another process listens on %s: stop it, or choose another path", path)
	}
	return os.Remove(path)
}

// connectionLimit is how many connections one listener may hold, given the process's limit of open files.
func connectionLimit() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > 1<<30 {
		return 1 << 30
	}
	return max(int(limit.Cur)-reservedFiles, int(limit.Cur)/2, 1)
}
