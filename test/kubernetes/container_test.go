package kubernetes

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// container is a process's file system: an empty root, thrown away with the
// container, one program, and the host paths that its manifest mounts.
type container struct {
	Root    string            // an empty folder on the host
	Program string            // on the host; becomes /usr/local/bin/etcd
	Mounts  map[string]string // path in the container -> folder on the host
	Command []string
}

// containerVariable hands a container's description to the process that is
// to become it.
const containerVariable = "COFFER_TEST_CONTAINER"

func TestMain(m *testing.M) {
	if spec := os.Getenv(containerVariable); spec != "" {
		fmt.Fprintln(os.Stderr, "container:", become(spec))
		os.Exit(70)
	}
	os.Exit(m.Run())
}

// become turns this process, which has a mount namespace of its own, into the
// container's program. It returns only with an error.
func become(spec string) error {
	var c container
	if err := json.Unmarshal([]byte(spec), &c); err != nil {
		return err
	}
	if err := syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""); err != nil {
		return fmt.Errorf("keep mounts to this namespace: %w", err)
	}
	if err := syscall.Mount("tmpfs", c.Root, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount the root: %w", err)
	}
	program := filepath.Join(c.Root, "usr/local/bin/etcd")
	if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
		return err
	}
	b, err := os.ReadFile(c.Program)
	if err != nil {
		return err
	}
	if err := os.WriteFile(program, b, 0o755); err != nil {
		return err
	}
	binds := map[string]string{"/proc": "/proc", "/dev": "/dev"}
	for inside, host := range c.Mounts {
		binds[inside] = host
	}
	for inside, host := range binds {
		at := filepath.Join(c.Root, inside)
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if err := syscall.Mount(host, at, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
			return fmt.Errorf("mount %s: %w", inside, err)
		}
	}
	if err := syscall.Chroot(c.Root); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	// What a container image without an Env of its own gives to its process.
	return syscall.Exec("/usr/local/bin/etcd", c.Command, []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
}
