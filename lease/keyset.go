package lease

import "slices"

// keySet is a set of keys. Most leases hold a key or two, a few hold very
// many: up to smallSet keys lie in a slice, more in a map.
type keySet struct {
	small []string
	large map[string]struct{}
}

const smallSet = 8

func (s *keySet) add(key []byte) {
	if s.large != nil {
		if _, ok := s.large[string(key)]; !ok {
			s.large[string(key)] = struct{}{}
		}
		return
	}
	if s.find(key) >= 0 {
		return
	}
	if len(s.small) < smallSet {
		s.small = append(s.small, string(key))
		return
	}
	s.large = make(map[string]struct{}, 2*smallSet)
	for _, k := range s.small {
		s.large[k] = struct{}{}
	}
	s.large[string(key)] = struct{}{}
	s.small = nil
}

func (s *keySet) remove(key []byte) {
	if s.large != nil {
		if delete(s.large, string(key)); len(s.large) == 0 {
			s.large = nil
		}
		return
	}
	if i := s.find(key); i >= 0 {
		last := len(s.small) - 1
		s.small[i] = s.small[last]
		s.small[last] = ""
		s.small = s.small[:last]
	}
}

func (s *keySet) find(key []byte) int {
	for i, k := range s.small {
		if k == string(key) {
			return i
		}
	}
	return -1
}

// all reports whether ok says so of every key.
func (s *keySet) all(ok func(key string) bool) bool {
	for _, k := range s.small {
		if !ok(k) {
			return false
		}
	}
	for k := range s.large {
		if !ok(k) {
			return false
		}
	}
	return true
}

// list returns the keys in no order.
func (s *keySet) list() []string {
	if s.large == nil {
		return slices.Clone(s.small)
	}
	keys := make([]string, 0, len(s.large))
	for k := range s.large {
		keys = append(keys, k)
	}
	return keys
}
