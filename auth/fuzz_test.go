package auth

import (
	"os"
	"path/filepath"
	"testing"
)

// Whatever a client sends as a token, it is nobody's unless it was issued.
func FuzzTokens(f *testing.F) {
	secret := filepath.Join(f.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		f.Fatal(err)
	}
	signed, err := NewTokens("jwt,sign-method=HS256,priv-key="+secret, 0, nil)
	if err != nil {
		f.Fatal(err)
	}
	one, err := signed.Issue("", "alice", 3)
	if err != nil {
		f.Fatal(err)
	}
	simple := SimpleTokens(0)
	two := simple.Assign("abcdefghijklmnop", 7, "bob")
	for _, s := range []string{"", one, two, one[:20], two[:16], "a.b.c", "eyJhbGciOiJub25lIn0.e30."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if c, ok := simple.Caller(s, 1); ok && (s != two || c.Name != "bob") {
			t.Errorf("%q is the token of %v", s, c)
		}
		// The same signature has more than one spelling in base64.
		if c, ok := signed.Caller(s, 1); ok && c != (Caller{"alice", 3}) {
			t.Errorf("%q is the token of %v", s, c)
		}
		simple.Index(s)
	})
}

func FuzzTokenOptions(f *testing.F) {
	for _, s := range []string{"", "simple", "jwt,a=b", "jwt,,", "jwt,a=b=c", "simple,a=b,a=b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		kind, options, err := parseTokens(s)
		if err == nil && len(kind) > len(s) || err != nil && (kind != "" || options != nil) {
			t.Errorf("%q: %q %v %v", s, kind, options, err)
		}
	})
}
