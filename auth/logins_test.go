package auth

import (
	"context"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

func TestFailuresOfOnePairAreAnsweredLaterAndLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLogins()
		took := func(user, address string) time.Duration {
			start := time.Now()
			l.Failed(t.Context(), nil, user, address)
			return time.Since(start)
		}
		want := []time.Duration{0, 0, 0, 100, 200, 400, 800, 1600, 3200, 5000, 5000}
		for i, w := range want {
			if got := took("u", "a"); got != w*time.Millisecond {
				t.Errorf("failure %d is answered after %v, want %v", i+1, got, w*time.Millisecond)
			}
		}
		for range 100 {
			if got := took("u", "a"); got != maxDelay {
				t.Fatalf("answered after %v", got)
			}
		}
		if got := took("u", "b") + took("v", "a"); got != 0 {
			t.Errorf("other pairs are answered after %v", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		l.Failed(ctx, nil, "u", "a")
		if got := time.Since(start); got != time.Second {
			t.Errorf("who has left is waited for %v", got)
		}
		l.Succeeded("u", "a")
		if got := took("u", "a"); got != 0 {
			t.Errorf("the first failure after a success is answered after %v", got)
		}
		for range 10 {
			took("u", "a")
		}
		time.Sleep(forgetAfter + time.Second)
		if got := took("u", "a"); got != 0 {
			t.Errorf("a failure long after the last is answered after %v", got)
		}
	})
}

func TestFailuresOfManyPairsTakeBoundedMemoryAndHideNoOtherPair(t *testing.T) {
	l := NewLogins()
	for range 20 {
		l.count("victim", "attacker")
	}
	for i := range 3 * maxPairs {
		l.count(strconv.Itoa(i), "attacker")
	}
	if n := len(l.pairs); n > maxPairs {
		t.Errorf("%d pairs are remembered", n)
	}
	if delay := l.count("victim", "attacker"); delay != maxDelay {
		t.Errorf("the next failure is answered after %v", delay)
	}
}
