package auth

import (
	"context"
	"encoding/base64"
	"errors"
	"runtime"
	"sync"

	"golang.org/x/crypto/bcrypt"
)

// Passwords hashes and compares passwords. That takes as long as it is meant to, so it is done before anything is proposed,
// outside of all locks, and by a bounded number of goroutines at a time: others have requests to answer meanwhile.
type Passwords struct {
	cost  int
	slots chan struct{}

	decoyOnce sync.Once
	decoy     []byte // the hash of nothing in particular
}

// NewPasswords returns passwords hashed with a bcrypt cost, from 4 to 31; any other means the default, 10.
func NewPasswords(cost int) *Passwords {
	if cost < bcrypt.MinCost || cost > bcrypt.MaxCost {
		cost = bcrypt.DefaultCost
	}
	return &Passwords{cost: cost, slots: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))}
}

// Hash returns the hash of a password as requests carry it. The error, if the password is too long, has no part of it.
func (p *Passwords) Hash(ctx context.Context, password string) (string, error) {
	if err := p.enter(ctx); err != nil {
		return "", err
	}
	defer p.leave()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), p.cost)
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(hash), nil
}

// Check checks the password of a user and returns the revision of the state at which it was right. What follows from it
// must be done again if that is no longer the revision: the password may have changed.
func (p *Passwords) Check(ctx context.Context, s *State, name, password string) (revision uint64, err error) {
	if !s.enabled {
		return 0, ErrNotEnabled
	}
	hash, err := s.password(name)
	if err != nil {
		return 0, err
	}
	known := hash != nil
	if err := p.enter(ctx); err != nil {
		return 0, err
	}
	defer p.leave()
	if !known {
		// It takes as long to learn that there is no such user as to learn that the password is wrong.
		hash = p.decoyHash()
	}
	if err := bcrypt.CompareHashAndPassword(hash, []byte(password)); err != nil || !known {
		return 0, ErrAuthFailed
	}
	return s.revision, nil
}

// enter waits for its turn, or for the end of ctx.
func (p *Passwords) enter(ctx context.Context) error {
	select {
	case p.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *Passwords) leave() { <-p.slots }

func (p *Passwords) decoyHash() []byte {
	p.decoyOnce.Do(func() {
		hash, err := bcrypt.GenerateFromPassword([]byte(drawWord()), p.cost)
		if err != nil {
			panic(errors.Join(errors.New("auth: hashing a word"), err)) // only a long one cannot be hashed
		}
		p.decoy = hash
	})
	return p.decoy
}
