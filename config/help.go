package config

import (
	"fmt"
	"io"
	"strings"
)

// UsageLine is printed when a command line cannot be parsed.
const UsageLine = `Usage:

  coffer serve --kek file:PATH [flags]
    Start a member. Every flag also has an environment variable: --listen-client-urls is ETCD_LISTEN_CLIENT_URLS.

  coffer serve --config-file FILE
    Start a member with a configuration file in etcd's YAML format.

  coffer serve --help
    Show all flags.
`

// Help writes a description of every flag to w.
func Help(w io.Writer) error {
	var b strings.Builder
	b.WriteString(UsageLine)
	t := newTable(Default())
	section := ""
	var without []string
	for _, e := range t.entries {
		if e.retired {
			continue
		}
		if e.usage == "" {
			without = append(without, "--"+e.name)
			continue
		}
		if e.section != section {
			section = e.section
			fmt.Fprintf(&b, "\n%s:\n", section)
		}
		fmt.Fprintf(&b, "  --%s", e.name)
		if e.arg != "" {
			fmt.Fprintf(&b, " %s", e.arg)
		}
		if def := t.Lookup(e.name).DefValue; def != "" && def != "false" {
			fmt.Fprintf(&b, "  (default %s)", def)
		}
		b.WriteString("\n")
		usage := e.usage
		if e.noEffect != "" {
			usage += " Without effect: " + e.noEffect + "."
		}
		if e.refusal != "" {
			usage += " Refused: " + e.refusal + "."
		}
		writeWrapped(&b, usage, "      ", 110)
	}
	b.WriteString("\nAccepted so that etcd's command lines work, without effect:\n")
	writeWrapped(&b, strings.Join(without, " "), "  ", 110)
	_, err := io.WriteString(w, b.String())
	return err
}

func writeWrapped(b *strings.Builder, text, indent string, width int) {
	column := 0
	for word := range strings.FieldsSeq(text) {
		switch {
		case column == 0:
			b.WriteString(indent)
			column = len(indent)
		case column+1+len(word) > width:
			b.WriteString("\n" + indent)
			column = len(indent)
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	b.WriteByte('\n')
}
