package main

import "errors"

// exitError is an error with an exit status of its own.
type exitError struct {
	error
	status int
}

func (e exitError) Unwrap() error { return e.error }

// exitStatus is what the process ends with after err.
func exitStatus(err error) int {
	var e exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return e.status
	default:
		return 1
	}
}

// Exit statuses of etcd's tools.
const (
	exitBadFeature = 4   // a flag has a value that is not supported
	exitBadArgs    = 128 // the arguments make no sense
)
