package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// DefaultTokenTTL is the life of a token unless it is configured.
const DefaultTokenTTL = 5 * time.Minute

// Tokens makes the tokens of this member's users and knows whose a token is. There are two kinds. Simple tokens are random
// words that every member remembers: the member that checked the password makes the word, and the log hands it to the
// others. JSON web tokens are signed, and remembered by nobody.
//
// Its methods may be called from any goroutine.
type Tokens struct {
	simple *simpleTokens // one of the two, or none: then nobody can log in
	jwt    *jwtTokens
}

// NewTokens returns tokens as --auth-token describes them; ttl is the life of simple ones, 0 the default. As in etcd an empty
// spec is one without tokens, and options that are not known are only warned of.
func NewTokens(spec string, ttl time.Duration, log *zap.Logger) (*Tokens, error) {
	kind, options, err := parseTokens(spec)
	if err != nil {
		return nil, err
	}
	switch kind {
	case "":
		return &Tokens{}, nil
	case "simple":
		return SimpleTokens(ttl), nil
	case "jwt":
		j, err := newJWT(options, log)
		if err != nil {
			return nil, fmt.Errorf("json web tokens: %w", err)
		}
		return &Tokens{jwt: j}, nil
	}
	return nil, fmt.Errorf("tokens of kind %q are not known: simple and jwt are", kind)
}

// SimpleTokens returns tokens of the simple kind, with a life of ttl after their last use; 0 is the default.
func SimpleTokens(ttl time.Duration) *Tokens {
	if ttl <= 0 {
		ttl = DefaultTokenTTL
	}
	return &Tokens{simple: &simpleTokens{ttl: ttl, now: clock(), byHash: make(map[tokenHash]*simpleToken)}}
}

// parseTokens splits "kind,name=value,…".
func parseTokens(spec string) (kind string, options map[string]string, err error) {
	kind, rest, more := strings.Cut(spec, ",")
	options = make(map[string]string)
	for more {
		var option string
		option, rest, more = strings.Cut(rest, ",")
		name, value, ok := strings.Cut(option, "=")
		if !ok || strings.Contains(value, "=") {
			return "", nil, fmt.Errorf("token option %q is not of the form name=value", name)
		}
		if _, twice := options[name]; twice {
			return "", nil, fmt.Errorf("token option %q is given twice", name)
		}
		options[name] = value
	}
	return kind, options, nil
}

// Draw returns the word of a new simple token, which goes into the log, or "" for other kinds.
func (t *Tokens) Draw() string {
	if t.simple == nil {
		return ""
	}
	return drawWord()
}

// Assign makes a simple token of its word and the place in the log at which it becomes the user's, and remembers it. Every
// member calls it when it applies the login. Without a word there is no token.
func (t *Tokens) Assign(word string, index uint64, user string) string {
	if word == "" {
		return ""
	}
	token := word + "." + strconv.FormatUint(index, 10)
	if t.simple != nil {
		t.simple.add(token, user)
	}
	return token
}

// Issue returns the token of a user whose login was applied with the given outcome of Assign, at a revision of the state.
func (t *Tokens) Issue(assigned, user string, revision uint64) (string, error) {
	switch {
	case t.jwt != nil:
		return t.jwt.sign(user, revision)
	case t.simple != nil:
		return assigned, nil
	}
	return "", ErrAuthFailed
}

// Caller returns whose token it is; revision is that of the state, read before. False means that the token is none, or no
// longer. A simple token lives on by being used.
func (t *Tokens) Caller(token string, revision uint64) (Caller, bool) {
	switch {
	case t.simple != nil:
		name, ok := t.simple.user(token)
		return Caller{Name: name, Revision: revision}, ok
	case t.jwt != nil:
		return t.jwt.caller(token)
	}
	return Caller{}, false
}

// Index returns the place in the log at which a simple token was assigned: a member that has not yet applied so much cannot
// know the token.
func (t *Tokens) Index(token string) (uint64, bool) {
	word, place, ok := strings.Cut(token, ".")
	if t.simple == nil || !ok || len(word) != wordLength {
		return 0, false
	}
	index, err := strconv.ParseUint(place, 10, 64)
	return index, err == nil
}

// RevokeUser ends all simple tokens of a user. Those of other kinds end by the new revision.
func (t *Tokens) RevokeUser(name string) {
	if t.simple != nil {
		t.simple.remove(func(s *simpleToken) bool { return s.user == name })
	}
}

// RevokeAll ends all simple tokens.
func (t *Tokens) RevokeAll() {
	if t.simple != nil {
		t.simple.remove(func(*simpleToken) bool { return true })
	}
}

const (
	letters    = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	wordLength = 16 // 91 bits
)

func drawWord() string {
	word := make([]byte, 0, wordLength)
	for len(word) < wordLength {
		var b [wordLength]byte
		rand.Read(b[:]) // never fails
		for _, c := range b {
			// Bytes that would make the first letters likelier are passed over.
			if int(c) < 256/len(letters)*len(letters) && len(word) < wordLength {
				word = append(word, letters[int(c)%len(letters)])
			}
		}
	}
	return string(word)
}

// tokenHash stands for a token: looking up a hash tells nothing about the tokens that there are by the time it takes, and
// no token stays in memory.
type tokenHash [sha256.Size]byte

type simpleToken struct {
	user    string
	expires atomic.Int64 // by the clock of all tokens, in nanoseconds
}

type simpleTokens struct {
	ttl time.Duration
	now func() time.Duration // since some moment; setting the clock changes nothing

	mu     sync.RWMutex
	byHash map[tokenHash]*simpleToken
	added  int // since expired ones were last removed
	kept   int // when that was
}

// clock returns a clock that never goes back.
func clock() func() time.Duration {
	start := time.Now()
	return func() time.Duration { return time.Since(start) }
}

// sweepAfter is how many tokens are added, at least, before expired ones are looked for.
const sweepAfter = 256

func (t *simpleTokens) add(token, user string) {
	s := &simpleToken{user: user}
	now := t.now()
	s.expires.Store(int64(now + t.ttl))
	t.mu.Lock()
	defer t.mu.Unlock()
	t.byHash[sha256.Sum256([]byte(token))] = s
	// Looking through all of them only after as many were added costs every one the same.
	if t.added++; t.added >= max(t.kept, sweepAfter) {
		t.drop(func(s *simpleToken) bool { return s.expires.Load() <= int64(now) })
		t.added, t.kept = 0, len(t.byHash)
	}
}

func (t *simpleTokens) remove(which func(*simpleToken) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(which)
}

func (t *simpleTokens) drop(which func(*simpleToken) bool) {
	for h, s := range t.byHash {
		if which(s) {
			delete(t.byHash, h)
		}
	}
}

func (t *simpleTokens) user(token string) (string, bool) {
	h := sha256.Sum256([]byte(token))
	t.mu.RLock()
	s := t.byHash[h]
	t.mu.RUnlock()
	if s == nil {
		return "", false
	}
	now := t.now()
	if s.expires.Load() <= int64(now) {
		return "", false
	}
	s.expires.Store(int64(now + t.ttl))
	return s.user, true
}
