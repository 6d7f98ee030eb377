package raftnode

import (
	"fmt"
	"strings"

	"go.etcd.io/raft/v3"
	"go.uber.org/zap"
)

// raftLogger passes raft's log on. Of messages raft prints types, terms and
// indexes, never the data of entries.
type raftLogger struct {
	*zap.SugaredLogger
	die func(error)
}

// caller is the logger for methods that stand between raft and zap.
func (l *raftLogger) caller() *zap.SugaredLogger { return l.WithOptions(zap.AddCallerSkip(1)) }

var _ raft.Logger = (*raftLogger)(nil)

// Infof implements raft.Logger. That entries were stable already is usual when
// several appends are one.
func (l *raftLogger) Infof(format string, v ...any) {
	if strings.HasPrefix(format, "entry at ") {
		l.caller().Debugf(format, v...)
		return
	}
	l.caller().Infof(format, v...)
}

// Warning implements raft.Logger.
func (l *raftLogger) Warning(v ...any) { l.caller().Warn(v...) }

// Warningf implements raft.Logger.
func (l *raftLogger) Warningf(format string, v ...any) { l.caller().Warnf(format, v...) }

// Fatal, Fatalf, Panic and Panicf are how raft says that it cannot go on: what
// it was handed contradicts what it knows. The member ends in order.

// Fatal implements raft.Logger.
func (l *raftLogger) Fatal(v ...any) { l.die(fmt.Errorf("raft: %s", fmt.Sprint(v...))) }

// Fatalf implements raft.Logger.
func (l *raftLogger) Fatalf(format string, v ...any) { l.die(fmt.Errorf("raft: "+format, v...)) }

// Panic implements raft.Logger.
func (l *raftLogger) Panic(v ...any) { l.die(fmt.Errorf("raft: %s", fmt.Sprint(v...))) }

// Panicf implements raft.Logger.
func (l *raftLogger) Panicf(format string, v ...any) { l.die(fmt.Errorf("raft: "+format, v...)) }
