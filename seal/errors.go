package seal

import (
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2"
)

// An Error says that a file is not what this member wrote: altered, damaged,
// cut, moved, or put there from elsewhere. Nothing of what stands at Offset was
// handed out. It is pebble.ErrCorruption to errors.Is, and never io.EOF.
type Error struct {
	File   string // path
	Offset int64  // in bytes from the start of the sealed file
	Reason string
}

// Error names the file, the place, and what to do.
func (e *Error) Error() string {
	return fmt.Sprintf("seal: %s is altered or damaged: at offset %d: %s; nothing has been changed: put back the whole data "+
		"directory as it was last, or remove this member and let it join again, or restore a snapshot", e.File, e.Offset, e.Reason)
}

// Is makes Pebble recognize the error as corruption.
func (e *Error) Is(target error) bool { return target == pebble.ErrCorruption }

// altered counts and returns an *Error.
func altered(kind Kind, file string, offset int64, format string, args ...any) error {
	metricsOf[kind].openFailures.Inc()
	return &Error{File: file, Offset: offset, Reason: fmt.Sprintf(format, args...)}
}

// readError describes a failed read of the file underneath. An end of file there
// means that bytes are missing that must exist; handed up as io.EOF it would
// be taken for the end of the content.
func readError(kind Kind, file string, offset int64, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return altered(kind, file, offset, "the file ends within a frame")
	}
	return fmt.Errorf("seal: read %s at offset %d: %w", file, offset, err)
}
