package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/cofferkv/coffer/config"
	"github.com/cofferkv/coffer/server"
)

// serve runs a member and returns the exit status: 2 for a command line that cannot be parsed, 1 for a member that did
// not start or could not go on, 0 for one that was told to end.
func serve(args []string) int {
	if len(args) > 0 && (args[0] == "gateway" || args[0] == "grpc-proxy") {
		fmt.Fprintf(os.Stderr, "etcd %s is not part of coffer: point clients at the members, or run etcd's own\n", args[0])
		return 1
	}
	c, err := config.Parse(args, os.Environ())
	var syntax *config.SyntaxError
	switch {
	case errors.Is(err, flag.ErrHelp):
		if err := config.Help(os.Stdout); err != nil {
			return 1
		}
		return 0
	case errors.Is(err, config.ErrVersion):
		if err := printVersion(os.Stdout); err != nil {
			return 1
		}
		return 0
	case errors.As(err, &syntax):
		fmt.Fprintln(os.Stderr, err)
		fmt.Fprint(os.Stderr, config.UsageLine)
		return 2
	}
	valid := err
	if err == nil {
		valid = c.Validate()
	}
	log, err := server.NewLogger(c)
	if err != nil {
		log, _ = server.NewLogger(config.Default())
		valid = errors.Join(valid, err)
	}
	for _, n := range c.Notes {
		logNote(log, n)
	}
	if valid != nil {
		return failed(log, "failed to verify flags", valid)
	}
	if err := server.Run(c, build(), log); err != nil {
		return failed(log, "the member ended", err)
	}
	_ = log.Sync() // stderr need not support it
	return 0
}

// failed logs why the process ends, as its last line, and returns its exit status.
func failed(log *zap.Logger, what string, err error) int {
	log = log.WithOptions(zap.WithFatalHook(goOn{}), zap.AddCallerSkip(1))
	log.Fatal(what, zap.String("error", err.Error()))
	_ = log.Sync()
	return 1
}

func logNote(log *zap.Logger, n config.Note) {
	var fields []zap.Field
	for i := 0; i+1 < len(n.Fields); i += 2 {
		fields = append(fields, zap.String(n.Fields[i], n.Fields[i+1]))
	}
	if n.Warn {
		log.Warn(n.Text, fields...)
	} else {
		log.Info(n.Text, fields...)
	}
}

// goOn lets a line of level fatal be the last one without ending the process where it is written.
type goOn struct{}

func (goOn) OnWrite(*zapcore.CheckedEntry, []zapcore.Field) {}
