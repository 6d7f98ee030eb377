package mvcc

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/stretchr/testify/require"
)

// awkwardKeys are user keys that are prefixes of each other and hold the bytes that an encoding may trip over.
func awkwardKeys() [][]byte {
	keys := [][]byte{}
	alphabet := []byte{0x00, 0x01, suffixLen, 'a', 0xfe, 0xff}
	for _, a := range alphabet {
		keys = append(keys, []byte{a})
		for _, b := range alphabet {
			keys = append(keys, []byte{a, b})
			for _, c := range []byte{0x00, suffixLen, 0xff} {
				keys = append(keys, []byte{a, b, c})
			}
		}
	}
	return append(keys, bytes.Repeat([]byte{0xff}, 30), bytes.Repeat([]byte{0x00}, 30))
}

func awkwardRevs() []Rev {
	return []Rev{{1, 0}, {1, 1}, {2, 0}, {0x0d, 0x0d}, {255, 0}, {256, 0}, {math.MaxInt64, 0}, {math.MaxInt64, math.MaxInt32}}
}

func TestComparerKeepsPebblesRules(t *testing.T) {
	var prefixes, suffixes [][]byte
	for _, k := range awkwardKeys()[:36] {
		prefixes = append(prefixes, appendKeyPrefix(nil, k))
	}
	prefixes = append(prefixes, appendRevisionKey(nil, Rev{1, 2}), appendMetaKey(nil, "mvcc", []byte("applied")))
	for _, r := range awkwardRevs() {
		suffixes = append(suffixes, append(appendRev(nil, r), suffixLen))
	}
	require.NoError(t, pebble.CheckComparer(comparer, prefixes, suffixes))
}

func TestVersionsAreOrderedByUserKeyAndThenNewestFirst(t *testing.T) {
	type version struct {
		key []byte
		rev Rev
	}
	var versions []version
	for _, k := range awkwardKeys() {
		for _, r := range awkwardRevs() {
			versions = append(versions, version{k, r})
		}
	}
	rand.Shuffle(len(versions), func(i, j int) { versions[i], versions[j] = versions[j], versions[i] })
	encoded := make([][]byte, len(versions))
	for i, v := range versions {
		encoded[i] = appendVersionKey(nil, v.key, v.rev)
		require.NoError(t, validateKey(encoded[i]))
		key, rev, err := decodeVersionKey(encoded[i])
		require.NoError(t, err)
		require.Equal(t, v.key, key)
		require.Equal(t, v.rev, rev)
	}
	slices.SortFunc(encoded, comparer.Compare)
	slices.SortFunc(versions, func(a, b version) int {
		if c := bytes.Compare(a.key, b.key); c != 0 {
			return c
		}
		if a.rev.less(b.rev) {
			return 1
		}
		return -1
	})
	for i, v := range versions {
		require.Equal(t, appendVersionKey(nil, v.key, v.rev), encoded[i])
	}
}

func TestSeparatorsLieBetweenAndSuccessorsAbove(t *testing.T) {
	var keys [][]byte
	for i, k := range awkwardKeys() {
		if i%2 == 1 {
			continue
		}
		keys = append(keys, appendKeyPrefix(nil, k))
		for _, r := range awkwardRevs()[:2] {
			keys = append(keys, appendVersionKey(nil, k, r))
		}
	}
	keys = append(keys, appendRevisionKey(nil, Rev{1, 0}), appendRevisionKey(nil, Rev{1, 1}), appendRevisionKey(nil, Rev{math.MaxInt64, 0}))
	slices.SortFunc(keys, comparer.Compare)
	dst := []byte("kept")
	for i, a := range keys {
		s := comparer.Successor(slices.Clone(dst), a)
		require.True(t, bytes.HasPrefix(s, dst))
		require.LessOrEqual(t, comparer.Compare(a, s[len(dst):]), 0)
		require.NoError(t, validateKey(s[len(dst):]))
		if comparer.Split(a) == len(a) {
			next := comparer.ImmediateSuccessor(slices.Clone(dst), a)[len(dst):]
			require.NoError(t, validateKey(next))
			require.Equal(t, len(next), comparer.Split(next))
			require.Negative(t, comparer.Compare(a, next))
			for _, b := range keys {
				if comparer.Split(b) == len(b) && comparer.Compare(a, b) < 0 {
					require.LessOrEqual(t, comparer.Compare(next, b), 0)
				}
			}
		}
		for _, b := range keys[i+1:] {
			s := comparer.Separator(slices.Clone(dst), a, b)
			require.True(t, bytes.HasPrefix(s, dst))
			s = s[len(dst):]
			require.NoError(t, validateKey(s))
			require.LessOrEqual(t, comparer.Compare(a, s), 0, "%x %x %x", a, s, b)
			require.Negative(t, comparer.Compare(s, b), "%x %x %x", a, s, b)
			require.LessOrEqual(t, len(s), len(a))
		}
	}
}

func TestFormattedKeysDoNotShowTheKey(t *testing.T) {
	k := appendVersionKey(nil, []byte("/registry/secrets/default/password"), Rev{7, 0})
	for _, verb := range []string{"%s", "%v", "%x", "%q"} {
		s := fmt.Sprintf(verb, comparer.FormatKey(k)) + fmt.Sprintf(verb, comparer.FormatValue(k, []byte("password")))
		require.False(t, strings.Contains(s, "pass") || strings.Contains(s, "70617373"), s)
	}
}
