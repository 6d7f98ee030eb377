package keyring

import (
	"fmt"
	"strings"

	"github.com/cofferkv/coffer/kms"
)

// UnwrapKey opens, into dst, a key that WrapKey wrapped for context, with
// whichever of keks is among its wraps. dst should be the bytes of a kms.Secret.
func UnwrapKey(dst []byte, wraps []Wrap, context []byte, keks ...*kms.KEK) error {
	var want, have []string
	for _, w := range wraps {
		want = append(want, fmt.Sprintf("%s (id %s)", w.URI, w.KEK))
		for _, kek := range keks {
			if kek.ID() == w.KEK {
				return kek.Unwrap(dst, w.Wrapped, context)
			}
		}
	}
	for _, kek := range keks {
		have = append(have, fmt.Sprintf("%s (id %s)", kek.URI(), kek.ID()))
	}
	return fmt.Errorf("keyring: the key opens with %s, not with %s: name the right KEK", strings.Join(want, " or "), strings.Join(have, " or "))
}
