package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/zap"
)

// jwtTokens are json web tokens with the claims username, revision (of users and roles, when the token was issued) and exp.
// A change of users and roles makes all of them stale.
type jwtTokens struct {
	method jwt.SigningMethod
	signer any // nil on a member that can only verify
	public any
	ttl    time.Duration
	parser *jwt.Parser
}

// Options of json web tokens.
const (
	optMethod  = "sign-method"
	optPublic  = "pub-key"
	optPrivate = "priv-key"
	optTTL     = "ttl"
)

func newJWT(options map[string]string, log *zap.Logger) (*jwtTokens, error) {
	for _, name := range slices.Sorted(maps.Keys(options)) {
		if !slices.Contains([]string{optMethod, optPublic, optPrivate, optTTL}, name) && log != nil {
			log.Warn("unknown option of json web tokens", zap.String("option", name))
		}
	}
	t := &jwtTokens{ttl: DefaultTokenTTL, method: jwt.GetSigningMethod(options[optMethod])}
	if t.method == nil {
		return nil, fmt.Errorf("%s=%s is no signing method: RS256, PS256, ES256, EdDSA or HS256, or one of these with a longer hash", optMethod, options[optMethod])
	}
	var err error
	if ttl := options[optTTL]; ttl != "" {
		if t.ttl, err = time.ParseDuration(ttl); err != nil {
			return nil, fmt.Errorf("%s: %w", optTTL, err)
		}
	}
	if info, err := os.Stat(options[optPrivate]); err == nil && info.Mode().Perm()&0o007 != 0 && log != nil {
		log.Warn("everybody on this machine may read the key that signs tokens, and be root by it", zap.String("file", options[optPrivate]))
	}
	private, err := readOption(options, optPrivate)
	if err != nil {
		return nil, err
	}
	public, err := readOption(options, optPublic)
	if err != nil {
		return nil, err
	}
	if err := t.setKeys(private, public); err != nil {
		return nil, err
	}
	if t.signer != nil {
		if _, err := t.sign(Root, firstRevision); err != nil {
			return nil, fmt.Errorf("%s is not a key for %s", optPrivate, t.method.Alg())
		}
	}
	t.parser = jwt.NewParser(jwt.WithValidMethods([]string{t.method.Alg()}))
	return t, nil
}

// readOption reads the file that an option names.
func readOption(options map[string]string, name string) ([]byte, error) {
	path := options[name]
	if path == "" {
		return nil, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return b, nil
}

// setKeys parses the keys that the signing method needs. With a private key the public one may be left out; with a public
// one alone the member verifies tokens that others issue. With HMAC the private key file is the shared secret.
func (t *jwtTokens) setKeys(private, public []byte) error {
	switch t.method.(type) {
	case *jwt.SigningMethodRSA, *jwt.SigningMethodRSAPSS:
		return setPair(t, private, public,
			func(b []byte) (crypto.Signer, error) { return jwt.ParseRSAPrivateKeyFromPEM(b) },
			func(b []byte) (*rsa.PublicKey, error) { return jwt.ParseRSAPublicKeyFromPEM(b) })
	case *jwt.SigningMethodECDSA:
		return setPair(t, private, public,
			func(b []byte) (crypto.Signer, error) { return jwt.ParseECPrivateKeyFromPEM(b) },
			func(b []byte) (*ecdsa.PublicKey, error) { return jwt.ParseECPublicKeyFromPEM(b) })
	case *jwt.SigningMethodEd25519:
		return setPair(t, private, public, parseEdPrivate, parseEdPublic)
	case *jwt.SigningMethodHMAC:
		if len(private) == 0 {
			return fmt.Errorf("%s is missing", optPrivate)
		}
		t.signer, t.public = private, private
		return nil
	}
	return fmt.Errorf("signing method %s is not supported", t.method.Alg())
}

func setPair[P interface{ Equal(crypto.PublicKey) bool }](t *jwtTokens, private, public []byte,
	parsePrivate func([]byte) (crypto.Signer, error), parsePublic func([]byte) (P, error)) error {
	if len(private) == 0 && len(public) == 0 {
		return fmt.Errorf("%s is missing, and %s too", optPrivate, optPublic)
	}
	if len(private) != 0 {
		k, err := parsePrivate(private)
		if err != nil {
			return fmt.Errorf("%s: %w", optPrivate, err)
		}
		t.signer, t.public = k, k.Public()
	}
	if len(public) != 0 {
		k, err := parsePublic(public)
		if err != nil {
			return fmt.Errorf("%s: %w", optPublic, err)
		}
		if t.signer != nil && !k.Equal(t.public) {
			return fmt.Errorf("%s and %s are not of one pair", optPublic, optPrivate)
		}
		t.public = k
	}
	return nil
}

func parseEdPrivate(b []byte) (crypto.Signer, error) {
	k, err := jwt.ParseEdPrivateKeyFromPEM(b)
	if err != nil {
		return nil, err
	}
	signer, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, jwt.ErrNotEdPrivateKey
	}
	return signer, nil
}

func parseEdPublic(b []byte) (ed25519.PublicKey, error) {
	k, err := jwt.ParseEdPublicKeyFromPEM(b)
	if err != nil {
		return nil, err
	}
	public, ok := k.(ed25519.PublicKey)
	if !ok {
		return nil, jwt.ErrNotEdPublicKey
	}
	return public, nil
}

func (t *jwtTokens) sign(user string, revision uint64) (string, error) {
	if t.signer == nil {
		return "", ErrVerifyOnly
	}
	token, err := jwt.NewWithClaims(t.method, jwt.MapClaims{
		"username": user,
		"revision": revision,
		"exp":      time.Now().Add(t.ttl).Unix(),
	}).SignedString(t.signer)
	if err != nil {
		return "", errors.New("auth: signing a token failed") // no library's error is known to have no part of it
	}
	return token, nil
}

func (t *jwtTokens) caller(token string) (Caller, bool) {
	claims := jwt.MapClaims{}
	if _, err := t.parser.ParseWithClaims(token, claims, func(*jwt.Token) (any, error) { return t.public, nil }); err != nil {
		return Caller{}, false
	}
	name, ok := claims["username"].(string)
	revision, isNumber := claims["revision"].(float64)
	if !ok || !isNumber || revision < 1 {
		return Caller{}, false
	}
	return Caller{Name: name, Revision: uint64(revision)}, true
}
