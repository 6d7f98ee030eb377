// Package keyring keeps a member's data keys: it makes them, hands out the file
// keys derived from them, and ends their lives.
//
// # The hierarchy
//
//	KEK            outside the data directory (package kms); wraps
//	keyring key    one a member, random; keys derived from it protect
//	data keys      in the file KEYRING; HKDF of one with a file's salt and header gives
//	file keys      one a file; exist only inside the AEAD that [Keyring.FileKey] returns
//
// One data key is active: new files are sealed under it. The others only
// decrypt, until the last byte under them has been resealed; then they can be
// removed. Removed means that this keyring no longer holds the key. It does not
// mean destroyed: an old copy of the file KEYRING and a KEK that wrapped it at
// that time would still give the key back, which is why [KeyInfo] names, for
// every key that ever was, the KEKs that wrapped it.
//
// # What the file promises
//
// Everything in KEYRING stands under one MAC, keyed from the keyring key. So
// whoever can write to the disk, and even wrap keys under the KEK's public half,
// cannot add a key of his own, revive a removed one or change a state. Every
// wrap and every entry also carries a commitment to its key, checked after it
// was opened, because AES-GCM alone does not promise that a ciphertext opens
// under one key only.
//
// Every change raises the generation by one and is on the disk (written, synced,
// renamed over the old file, directory synced) before it takes effect. What a
// file cannot show is that it is the newest one: the generation is therefore
// recorded elsewhere too, and [Keyring.CheckGeneration] refuses an older file.
//
// Never create a keyring over existing sealed files: they are unreadable without
// theirs.
//
// # Memory
//
// Data keys and the keyring key are 64 random bytes in [kms.Secret] memory.
// They are as long as a block of SHA-256, so that HKDF reads them in place and
// leaves no copy in the heap.
package keyring
