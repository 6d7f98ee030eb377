package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestASimpleTokenLivesOnByBeingUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := SimpleTokens(10 * time.Second)
		token := tokens.Assign(tokens.Draw(), 42, "u")
		for range 5 {
			time.Sleep(9 * time.Second)
			if c, ok := tokens.Caller(token, 7); !ok || c != (Caller{"u", 7}) {
				t.Fatalf("the token is that of %v, %v", c, ok)
			}
		}
		if index, ok := tokens.Index(token); !ok || index != 42 {
			t.Errorf("the token was assigned at %d, %v", index, ok)
		}
		time.Sleep(10 * time.Second)
		if _, ok := tokens.Caller(token, 7); ok {
			t.Error("a token outlives its time")
		}
	})
}

func TestTokensThatNobodyUsesAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := SimpleTokens(time.Second)
		for range 10 * sweepAfter {
			tokens.Assign(tokens.Draw(), 1, "u")
			time.Sleep(20 * time.Millisecond)
		}
		if n := len(tokens.simple.byHash); n > 2*sweepAfter {
			t.Errorf("%d tokens are remembered", n)
		}
	})
}

func TestWordsAreLettersAndNeverTheSame(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		w := SimpleTokens(0).Draw()
		if len(w) != wordLength || strings.Trim(w, letters) != "" || seen[w] {
			t.Fatalf("word %q", w)
		}
		seen[w] = true
	}
}

func TestWhatIsNoSimpleTokenIsRefused(t *testing.T) {
	tokens := SimpleTokens(0)
	token := tokens.Assign(tokens.Draw(), 1, "u")
	for _, s := range []string{"", ".", "x", token[:len(token)-1], token + "0", strings.ToLower(token) + "x", strings.Repeat("a", 1<<20)} {
		if c, ok := tokens.Caller(s, 1); ok {
			t.Errorf("%.40q is the token of %v", s, c)
		}
	}
	for _, s := range []string{"", "a.1", strings.Repeat("a", wordLength), strings.Repeat("a", wordLength) + ".x", strings.Repeat("a", wordLength) + ".-1"} {
		if i, ok := tokens.Index(s); ok {
			t.Errorf("%q was assigned at %d", s, i)
		}
	}
}

// keyFiles writes a pair of keys.
func keyFiles(t *testing.T, private any, public any) (privatePath, publicPath string) {
	t.Helper()
	write := func(name, kind string, der []byte, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	privatePath = write("private", "PRIVATE KEY", der, err)
	der, err = x509.MarshalPKIXPublicKey(public)
	return privatePath, write("public", "PUBLIC KEY", der, err)
}

func pairs(t *testing.T) map[string][2]string {
	t.Helper()
	out := map[string][2]string{}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	private, public := keyFiles(t, r, &r.PublicKey)
	for _, m := range []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"} {
		out[m] = [2]string{private, public}
	}
	for m, curve := range map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()} {
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		private, public := keyFiles(t, k, &k.PublicKey)
		out[m] = [2]string{private, public}
	}
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, public = keyFiles(t, priv, pub)
	out["EdDSA"] = [2]string{private, public}
	for _, m := range []string{"HS256", "HS384", "HS512"} {
		out[m] = [2]string{private, ""} // any file is a secret
	}
	return out
}

func newTokens(t *testing.T, spec string) *Tokens {
	t.Helper()
	tokens, err := NewTokens(spec, 0, nil)
	if err != nil {
		t.Fatalf("%s: %v", spec, err)
	}
	return tokens
}

func TestSignedTokensOfEveryMethodAreVerifiedByTheirKeyAlone(t *testing.T) {
	all, others := pairs(t), pairs(t)
	for method, files := range all {
		spec := "jwt,sign-method=" + method + ",priv-key=" + files[0]
		if files[1] != "" {
			spec += ",pub-key=" + files[1]
		}
		signer := newTokens(t, spec)
		if w := signer.Draw(); w != "" {
			t.Errorf("%s: the word %q goes into the log", method, w)
		}
		token, err := signer.Issue("", "alice", 12)
		if err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		want := Caller{"alice", 12}
		// The revision of the state does not count, that in the token does.
		if c, ok := signer.Caller(token, 99); !ok || c != want {
			t.Errorf("%s: the token is that of %v, %v", method, c, ok)
		}
		if files[1] != "" {
			verifier := newTokens(t, "jwt,sign-method="+method+",pub-key="+files[1])
			if c, ok := verifier.Caller(token, 1); !ok || c != want {
				t.Errorf("%s: verified with the public key, the token is that of %v, %v", method, c, ok)
			}
			if _, err := verifier.Issue("", "alice", 1); !errors.Is(err, ErrVerifyOnly) {
				t.Errorf("%s: issued without a private key: %v", method, err)
			}
		}
		other := newTokens(t, "jwt,sign-method="+method+",priv-key="+others[method][0])
		if _, ok := other.Caller(token, 1); ok {
			t.Errorf("%s: a token is verified by another key", method)
		}
		for _, bad := range []string{"", "a.b.c", token[:len(token)-4], token + "A", strings.Replace(token, ".", ".A", 1)} {
			if _, ok := signer.Caller(bad, 1); ok {
				t.Errorf("%s: %q is a token", method, bad)
			}
		}
	}
}

func TestTokensSignedInAnotherWayAreRefused(t *testing.T) {
	files := pairs(t)["RS256"]
	public, err := os.ReadFile(files[1])
	if err != nil {
		t.Fatal(err)
	}
	tokens := newTokens(t, "jwt,sign-method=RS256,priv-key="+files[0])
	claims := func(change func(jwt.MapClaims)) jwt.MapClaims {
		c := jwt.MapClaims{"username": "root", "revision": 5, "exp": time.Now().Add(time.Hour).Unix()}
		change(c)
		return c
	}
	same := func(jwt.MapClaims) {}
	sign := func(m jwt.SigningMethod, key any, c jwt.MapClaims) string {
		s, err := jwt.NewWithClaims(m, c).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	key := tokens.jwt.signer
	if _, ok := tokens.Caller(sign(jwt.SigningMethodRS256, key, claims(same)), 1); !ok {
		t.Error("what should be a token is none")
	}
	for name, token := range map[string]string{
		"without a signature":         sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, claims(same)),
		"public key as a secret":      sign(jwt.SigningMethodHS256, public, claims(same)),
		"another hash":                sign(jwt.SigningMethodRS512, key, claims(same)),
		"expired":                     sign(jwt.SigningMethodRS256, key, claims(func(c jwt.MapClaims) { c["exp"] = time.Now().Add(-time.Second).Unix() })),
		"without a user":              sign(jwt.SigningMethodRS256, key, claims(func(c jwt.MapClaims) { delete(c, "username") })),
		"a user that is no string":    sign(jwt.SigningMethodRS256, key, claims(func(c jwt.MapClaims) { c["username"] = 1 })),
		"without a revision":          sign(jwt.SigningMethodRS256, key, claims(func(c jwt.MapClaims) { delete(c, "revision") })),
		"a revision before the first": sign(jwt.SigningMethodRS256, key, claims(func(c jwt.MapClaims) { c["revision"] = 0 })),
	} {
		if c, ok := tokens.Caller(token, 1); ok {
			t.Errorf("%s: the token is that of %v", name, c)
		}
	}
}

func TestTokensThatCannotBeAreRefusedAtTheStart(t *testing.T) {
	p := pairs(t)
	for _, spec := range []string{
		"complex", "simple,x", "jwt", "jwt,sign-method=RS256", "jwt,sign-method=none,priv-key=" + p["HS256"][0],
		"jwt,sign-method=RS256,priv-key=/nowhere", "jwt,sign-method=RS256,priv-key=" + p["ES256"][0],
		"jwt,sign-method=ES384,priv-key=" + p["ES256"][0], "jwt,sign-method=EdDSA,priv-key=" + p["ES256"][0],
		"jwt,sign-method=HS256,pub-key=" + p["RS256"][1], "jwt,sign-method=RS256,ttl=soon,priv-key=" + p["RS256"][0],
		"jwt,sign-method=RS256,sign-method=RS256,priv-key=" + p["RS256"][0], "jwt,sign-method==RS256",
		"jwt,sign-method=ES256,priv-key=" + p["ES256"][0] + ",pub-key=" + pairs(t)["ES256"][1],
	} {
		if _, err := NewTokens(spec, 0, nil); err == nil {
			t.Errorf("%s is taken", spec)
		} else {
			t.Log(err)
		}
	}
	none := newTokens(t, "")
	if _, err := none.Issue("", "u", 1); !errors.Is(err, ErrAuthFailed) {
		t.Errorf("without tokens: %v", err)
	}
	core, logged := observer.New(zap.WarnLevel)
	file := p["RS256"][0]
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := NewTokens("jwt,sign-method=RS256,tll=1m,priv-key="+file, 0, zap.New(core)); err != nil || logged.Len() != 2 {
		t.Errorf("a misspelt option and a key that everybody can read: %v, %v", err, logged.All())
	}
}

// On a member without the word of a simple token, as one with signed tokens is, nothing is assigned.
func TestKindsOfTokensDoNotMix(t *testing.T) {
	signed := newTokens(t, "jwt,sign-method=HS256,priv-key="+pairs(t)["HS256"][0])
	simple := SimpleTokens(0)
	if token := simple.Assign(signed.Draw(), 5, "u"); token != "" {
		t.Errorf("assigned %q", token)
	}
	token := signed.Assign(simple.Draw(), 5, "u")
	if _, ok := signed.Caller(token, 1); ok {
		t.Error("a simple token is a signed one")
	}
	signed.RevokeAll()
	signed.RevokeUser("u")
}
