// Package kms holds the keys that wrap a member's keyring key: the key
// encryption keys, KEKs.
//
// A KEK never touches data. It wraps one random key, the keyring key, when a
// keyring is written, and unwraps it once when a member starts; and it wraps the
// key of each stand-alone snapshot. Whoever has the KEK and the data directory
// has the data, so the KEK must live elsewhere: on another volume, in another
// backup.
//
// One provider exists, file:PATH. The file holds 32 random bytes and nothing
// else, and only its owner may read it:
//
//	(umask 077; head -c 32 /dev/urandom > /etc/coffer/kek)
//
// Open refuses any other file and says how to mend it. Create makes such a file
// and never replaces one.
//
// Keys are held in [Secret] memory, outside Go's heap.
package kms
