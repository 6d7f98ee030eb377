package config

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"go.etcd.io/etcd/client/pkg/v3/types"
)

// urlsValue is a list of URLs, sorted and each once. The empty text is accepted and changes nothing, as in etcd.
type urlsValue struct{ urls *[]url.URL }

func (v urlsValue) Set(s string) error {
	if s == "" {
		return nil
	}
	urls, err := types.NewURLs(strings.Split(s, ","))
	if err != nil {
		return err
	}
	*v.urls = slices.CompactFunc(urls, func(a, b url.URL) bool { return a.String() == b.String() })
	return nil
}

func (v urlsValue) String() string {
	if v.urls == nil {
		return ""
	}
	return strings.Join(Strings(*v.urls), ",")
}

// originsValue is a list of origins, or "*" for all of them.
type originsValue struct{ origins *[]string }

func (v originsValue) Set(s string) error {
	if s == "" || s == "*" {
		*v.origins = []string{"*"}
		return nil
	}
	urls, err := types.NewURLs(strings.Split(s, ","))
	if err != nil {
		return err
	}
	*v.origins = slices.Compact(types.URLs(urls).StringSlice())
	return nil
}

func (v originsValue) String() string {
	if v.origins == nil {
		return ""
	}
	return strings.Join(*v.origins, ",")
}

// listValue is a list separated by commas, in the order given.
type listValue struct{ list *[]string }

func (v listValue) Set(s string) error {
	*v.list = nil
	if s != "" {
		*v.list = strings.Split(s, ",")
	}
	return nil
}

func (v listValue) String() string {
	if v.list == nil {
		return ""
	}
	return strings.Join(*v.list, ",")
}

// setValue is a list separated by commas, sorted and each once.
type setValue struct{ list *[]string }

func (v setValue) Set(s string) error {
	list := strings.Split(s, ",")
	slices.Sort(list)
	*v.list = slices.Compact(list)
	return nil
}

func (v setValue) String() string { return listValue(v).String() }

// choiceValue is one of a few words.
type choiceValue struct {
	value   *string
	choices []string
}

func (v choiceValue) Set(s string) error {
	if !slices.Contains(v.choices, s) {
		return errors.New("invalid value")
	}
	*v.value = s
	return nil
}

func (v choiceValue) String() string {
	if v.value == nil {
		return ""
	}
	return *v.value
}

// choicesValue is a list of a few words, separated by commas.
type choicesValue struct {
	list    *[]string
	choices []string
}

func (v choicesValue) Set(s string) error {
	var list []string
	for word := range strings.SplitSeq(s, ",") {
		word = strings.TrimSpace(word)
		if !slices.Contains(v.choices, word) {
			return fmt.Errorf("invalid value %q: one of %s", word, strings.Join(v.choices, ", "))
		}
		list = append(list, word)
	}
	slices.Sort(list)
	*v.list = slices.Compact(list)
	return nil
}

func (v choicesValue) String() string { return listValue{v.list}.String() }

type uint32Value struct{ n *uint32 }

func (v uint32Value) Set(s string) error {
	n, err := strconv.ParseUint(s, 0, 32)
	if err != nil {
		return err
	}
	*v.n = uint32(n)
	return nil
}

func (v uint32Value) String() string {
	if v.n == nil {
		return ""
	}
	return strconv.FormatUint(uint64(*v.n), 10)
}

// discard takes any text, with or without a value, and forgets it: flags of etcd versions long past.
type discard struct{}

func (discard) Set(string) error { return nil }
func (discard) String() string   { return "" }
func (discard) IsBoolFlag() bool { return true }
