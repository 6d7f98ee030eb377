package server

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc/grpclog"
	"gopkg.in/natefinch/lumberjack.v2"

	"github.com/cofferkv/coffer/config"
)

// encoding is etcd's: its tools and tests read these keys and this form of time.
var encoding = zapcore.EncoderConfig{
	LevelKey:       "level",
	TimeKey:        "ts",
	NameKey:        "logger",
	CallerKey:      "caller",
	MessageKey:     "msg",
	StacktraceKey:  "stacktrace",
	LineEnding:     zapcore.DefaultLineEnding,
	EncodeLevel:    zapcore.LowercaseLevelEncoder,
	EncodeCaller:   zapcore.ShortCallerEncoder,
	EncodeDuration: zapcore.StringDurationEncoder,
	EncodeTime: func(t time.Time, enc zapcore.PrimitiveArrayEncoder) {
		enc.AppendString(t.Format("2006-01-02T15:04:05.000000Z0700"))
	},
}

// NewLogger returns the log that c asks for. Its lines are bounded to a hundred equal ones a second, then every hundredth:
// a client that fails its handshake in a loop must not fill the disk.
func NewLogger(c *config.Config) (*zap.Logger, error) {
	if err := refuseLogInside(c); err != nil {
		return nil, err
	}
	level, err := zapcore.ParseLevel(c.LogLevel)
	if err != nil {
		return nil, err
	}
	encoder := zapcore.NewJSONEncoder(encoding)
	if c.LogFormat == "console" {
		encoder = zapcore.NewConsoleEncoder(encoding)
	}
	var outputs []zapcore.WriteSyncer
	for _, out := range c.LogOutputs {
		w, err := logOutput(c, out)
		if err != nil {
			return nil, fmt.Errorf("--log-outputs %s: %w", out, err)
		}
		outputs = append(outputs, w)
	}
	core := zapcore.NewCore(encoder, zap.CombineWriteSyncers(outputs...), level)
	core = zapcore.NewSamplerWithOptions(core, time.Second, 100, 100)
	onlyPanics := zap.LevelEnablerFunc(func(l zapcore.Level) bool { return l == zapcore.DPanicLevel || l == zapcore.PanicLevel })
	return zap.New(core, zap.AddCaller(), zap.AddStacktrace(onlyPanics), zap.ErrorOutput(zapcore.Lock(os.Stderr))), nil
}

func logOutput(c *config.Config, out string) (zapcore.WriteSyncer, error) {
	switch out {
	case "default", "stderr":
		return zapcore.Lock(os.Stderr), nil
	case "stdout":
		return zapcore.Lock(os.Stdout), nil
	case "systemd/journal":
		if !journal.Enabled() {
			return nil, fmt.Errorf("no systemd journal on this machine: choose another output")
		}
		return journalWriter{}, nil
	}
	if c.EnableLogRotation && slices.Contains(c.LogFiles(), out) {
		rotated := &lumberjack.Logger{}
		if err := json.Unmarshal([]byte(c.LogRotationConfigJSON), rotated); err != nil {
			return nil, fmt.Errorf("log rotation: %w", err)
		}
		rotated.Filename = out
		return zapcore.AddSync(rotated), nil
	}
	f, err := os.OpenFile(filepath.Clean(out), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, err
	}
	return zapcore.Lock(f), nil
}

// journalWriter sends each line to the systemd journal with the priority of its level.
type journalWriter struct{}

func (journalWriter) Write(p []byte) (int, error) {
	var line struct{ Level, Caller string }
	_ = json.Unmarshal(p, &line) // console format: the default priority
	priority := journal.PriInfo
	switch line.Level {
	case "debug":
		priority = journal.PriDebug
	case "warn":
		priority = journal.PriWarning
	case "error":
		priority = journal.PriErr
	case "dpanic", "panic", "fatal":
		priority = journal.PriCrit
	}
	err := journal.Send(string(p), priority, map[string]string{"PACKAGE": line.Caller, "SYSLOG_IDENTIFIER": "coffer"})
	return len(p), err
}

func (journalWriter) Sync() error { return nil }

// routeGRPCLog sends gRPC's own log through ours. What it calls an error is a connection that ended, of which an operator
// needs to know nothing.
func routeGRPCLog(log *zap.Logger) {
	grpclog.SetLoggerV2(grpcLog{log.Named("grpc").WithOptions(zap.AddCallerSkip(2)).Sugar()})
}

type grpcLog struct{ log *zap.SugaredLogger }

func (g grpcLog) Info(args ...any)                    { g.log.Debug(args...) }
func (g grpcLog) Infoln(args ...any)                  { g.log.Debugln(args...) }
func (g grpcLog) Infof(format string, args ...any)    { g.log.Debugf(format, args...) }
func (g grpcLog) Warning(args ...any)                 { g.log.Debug(args...) }
func (g grpcLog) Warningln(args ...any)               { g.log.Debugln(args...) }
func (g grpcLog) Warningf(format string, args ...any) { g.log.Debugf(format, args...) }
func (g grpcLog) Error(args ...any)                   { g.log.Warn(args...) }
func (g grpcLog) Errorln(args ...any)                 { g.log.Warnln(args...) }
func (g grpcLog) Errorf(format string, args ...any)   { g.log.Warnf(format, args...) }
func (g grpcLog) Fatal(args ...any)                   { g.log.Fatal(args...) }
func (g grpcLog) Fatalln(args ...any)                 { g.log.Fatalln(args...) }
func (g grpcLog) Fatalf(format string, args ...any)   { g.log.Fatalf(format, args...) }

// V reports whether gRPC need bother to log at this verbosity.
func (g grpcLog) V(level int) bool { return level <= 0 || g.log.Level() == zapcore.DebugLevel }
