package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// report is an answer in the forms of etcd's tools, which scripts read.
type report struct {
	header, row []string
	fields      [][2]string
	json        any
}

// checkFormat is done before the work, some of which takes long.
func checkFormat(format string) error {
	switch format {
	case "simple", "table", "fields", "json":
		return nil
	case "protobuf":
		return exitError{errors.New("protobuf not supported as output format"), exitBadFeature}
	default:
		return exitError{errors.New("unsupported output format"), exitBadFeature}
	}
}

func (r report) print(out io.Writer, format string) error {
	var text strings.Builder
	switch format {
	case "simple":
		fmt.Fprintln(&text, strings.Join(r.row, ", "))
	case "table":
		r.table(&text)
	case "fields":
		for _, f := range r.fields {
			fmt.Fprintf(&text, "%q : %s\n", f[0], f[1])
		}
	case "json":
		b, err := json.Marshal(r.json)
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, "%s\n", b)
	}
	_, err := io.WriteString(out, text.String())
	return err
}

func (r report) table(out io.Writer) {
	line := func(left, middle, right string) {
		var cells []string
		for i := range r.header {
			cells = append(cells, strings.Repeat("─", r.width(i)+2))
		}
		fmt.Fprintf(out, "%s%s%s\n", left, strings.Join(cells, middle), right)
	}
	cells := func(texts []string, center bool) {
		fmt.Fprint(out, "│")
		for i, text := range texts {
			free := r.width(i) - utf8.RuneCountInString(text)
			right := 0
			if center {
				right = free - free/2
			}
			fmt.Fprintf(out, " %s%s%s │", strings.Repeat(" ", free-right), text, strings.Repeat(" ", right))
		}
		fmt.Fprintln(out)
	}
	var titles []string
	for _, h := range r.header {
		titles = append(titles, strings.ToUpper(h))
	}
	line("┌", "┬", "┐")
	cells(titles, true)
	line("├", "┼", "┤")
	cells(r.row, false)
	line("└", "┴", "┘")
}

func (r report) width(column int) int {
	return max(utf8.RuneCountInString(r.header[column]), utf8.RuneCountInString(r.row[column]))
}

// humanBytes is a size with two digits, as etcd's tools show it.
func humanBytes(n int64) string {
	if n < 10 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), 0
	for ; value >= 1000 && unit < 6; unit++ {
		value /= 1000
	}
	value = float64(int64(value*10+0.5)) / 10
	digits := 0
	if value < 10 {
		digits = 1
	}
	return fmt.Sprintf("%.*f %s", digits, value, []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}[unit])
}
