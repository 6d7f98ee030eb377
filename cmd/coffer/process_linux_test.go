package main

import (
	"os"
	"os/exec"
	"syscall"
)

// commandAs returns a command that runs as another user.
func commandAs(uid uint32, program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "COFFER_TEST_RUNS_MAIN=1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	return cmd
}
