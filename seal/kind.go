package seal

import (
	"fmt"
	"strings"
)

// A Kind says what a file is for. It follows from the file's name, stands in the
// file's header, and decides how the file's frames are laid out.
type Kind uint8

// The kinds, as numbered in headers.
const (
	KindForeign   Kind = 0  // no header says so: see FS.Inventory
	KindJournal   Kind = 1  // *.journal: a segment of the Raft journal
	KindTable     Kind = 2  // *.sst: Pebble's tables
	KindBlob      Kind = 3  // *.blob: Pebble's blob files
	KindManifest  Kind = 4  // MANIFEST-*: Pebble's list of its tables
	KindOptions   Kind = 5  // OPTIONS-*: Pebble's options
	KindMarker    Kind = 6  // marker.*: Pebble's markers, whose content is their name
	KindPebbleLog Kind = 7  // *.log: Pebble's own write-ahead log, which Coffer switches off
	KindSnapshot  Kind = 8  // *.snap: a snapshot on its way in or out, inside the data directory
	KindAudit     Kind = 9  // *.audit: the audit log
	KindBallast   Kind = 10 // ballast: space kept for a full disk
	KindTemporary Kind = 11 // *.dbtmp: what Pebble writes before it renames it
)

var kindNames = map[Kind]string{
	KindJournal: "journal", KindTable: "table", KindBlob: "blob", KindManifest: "manifest", KindOptions: "options", KindMarker: "marker",
	KindPebbleLog: "pebble-log", KindSnapshot: "snapshot", KindAudit: "audit", KindBallast: "ballast", KindTemporary: "temporary",
}

// String returns the kind's name as metrics and error messages use it.
func (k Kind) String() string {
	if k == KindForeign {
		return "foreign"
	}
	if name, ok := kindNames[k]; ok {
		return name
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// KindOf returns the kind of file that base, a name without directories, is
// for, and false if there is none: such a file cannot be made.
func KindOf(base string) (Kind, bool) {
	switch {
	case strings.HasPrefix(base, "marker."): // first: a marker's value may look like any other name
		return KindMarker, true
	case strings.HasPrefix(base, "MANIFEST-"):
		return KindManifest, true
	case strings.HasPrefix(base, "OPTIONS-"):
		return KindOptions, true
	case base == "ballast":
		return KindBallast, true
	}
	for suffix, k := range map[string]Kind{".journal": KindJournal, ".sst": KindTable, ".blob": KindBlob, ".log": KindPebbleLog, ".snap": KindSnapshot, ".audit": KindAudit, ".dbtmp": KindTemporary} {
		if strings.HasSuffix(base, suffix) {
			return k, true
		}
	}
	return 0, false
}

// log says whether files of the kind grow for as long as they are open: their
// frames are of any length and closed at every sync, and none is final. Files of
// the other kinds are written once: their frames are of one length, but for the
// last, which is marked final. Markers have no frames at all.
func (k Kind) log() bool {
	return k == KindJournal || k == KindManifest || k == KindPebbleLog || k == KindAudit
}

// unfinishedIsEmpty says whether a file of the kind that ends within its header
// is the trace of a crash, and reads as empty. In any other kind the header is
// durable before anything refers to the file.
func (k Kind) unfinishedIsEmpty() bool { return k == KindPebbleLog || k == KindTemporary }
