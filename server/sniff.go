package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// protocol is what the client of a connection speaks.
type protocol int

const (
	protocolHTTP1 protocol = iota
	protocolGRPC
	protocolHTTP2 // HTTP/2, but not gRPC: the JSON gateway and its like
)

const (
	// firstBytesTimeout is how long a client may take to say anything at all.
	firstBytesTimeout = time.Minute
	// maxSniffed bounds what is read before a connection's protocol is known.
	maxSniffed = 256 << 10
)

// sniff reads from c until it is clear what the client speaks, and returns that with the bytes read.
//
// HTTP/1 and HTTP/2 differ in the first line. gRPC is HTTP/2 whose requests say so in their headers; but gRPC clients
// send no request before they have the server's SETTINGS, so sniff sends empty ones. The server that takes over sends
// its own, and the client acknowledges both; see ackFilter. A client that does anything other than to exchange settings
// before its first request is taken for gRPC's.
func sniff(c net.Conn) (protocol, []byte, error) {
	if err := c.SetReadDeadline(time.Now().Add(firstBytesTimeout)); err != nil {
		return 0, nil, err
	}
	var seen bytes.Buffer
	in := io.TeeReader(io.LimitReader(c, maxSniffed), &seen)
	preface := make([]byte, len(http2.ClientPreface))
	for n := 0; n < len(preface); {
		read, err := in.Read(preface[n:])
		n += read
		if !strings.HasPrefix(http2.ClientPreface, string(preface[:n])) {
			return protocolHTTP1, seen.Bytes(), c.SetReadDeadline(time.Time{})
		}
		if err != nil {
			return 0, nil, err
		}
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return 0, nil, err
	}
	if err := http2.NewFramer(c, nil).WriteSettings(); err != nil {
		return 0, nil, err
	}
	framer := http2.NewFramer(nil, in)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	framer.MaxHeaderListSize = maxSniffed
	framer.SetMaxReadFrameSize(16 << 10) // what a client may send before it has been allowed more (RFC 9113, section 6.5.2)
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			if isNetError(err) {
				return 0, nil, err
			}
			// Not HTTP/2 after all: gRPC's transport knows what to answer.
			return protocolGRPC, seen.Bytes(), nil
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame, *http2.WindowUpdateFrame, *http2.PriorityFrame:
		case *http2.MetaHeadersFrame:
			for _, field := range frame.RegularFields() {
				if field.Name == "content-type" && strings.HasPrefix(field.Value, "application/grpc") {
					return protocolGRPC, seen.Bytes(), nil
				}
			}
			return protocolHTTP2, seen.Bytes(), nil
		default:
			return protocolGRPC, seen.Bytes(), nil
		}
	}
}

func isNetError(err error) bool {
	var opErr *net.OpError
	return errors.As(err, &opErr) || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed)
}

// replayed is a connection whose first bytes have been read already.
type replayed struct {
	net.Conn
	first []byte
}

func (c *replayed) Read(p []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(p, c.first)
		c.first = c.first[n:]
		if len(c.first) == 0 {
			c.first = nil
		}
		return n, nil
	}
	return c.Conn.Read(p)
}

// ackFilter takes the first acknowledgement of SETTINGS out of what a client sends: the one that answers sniff's.
// net/http's server would take it for an answer to its own, and the second one for an attack. (gRPC's ignores both.)
type ackFilter struct {
	net.Conn
	header  []byte // of the frame that is being read, as far as it has come
	payload int    // bytes of the frame that are still to come
	held    []byte // a header that has been read and not been handed out
	done    bool
}

const frameHeaderLen = 9

func (f *ackFilter) Read(p []byte) (int, error) {
	for {
		if len(f.held) > 0 {
			n := copy(p, f.held)
			f.held = f.held[n:]
			return n, nil
		}
		if f.done {
			return f.Conn.Read(p)
		}
		if f.payload > 0 {
			n, err := f.Conn.Read(p[:min(len(p), f.payload)])
			f.payload -= n
			return n, err
		}
		if err := f.readHeader(); err != nil {
			return 0, err
		}
	}
}

// readHeader reads the header of the next frame and decides whether the frame is to be seen.
func (f *ackFilter) readHeader() error {
	for len(f.header) < frameHeaderLen {
		var rest [frameHeaderLen]byte
		n, err := f.Conn.Read(rest[:frameHeaderLen-len(f.header)])
		f.header = append(f.header, rest[:n]...)
		if err != nil && len(f.header) < frameHeaderLen {
			return err
		}
	}
	header := f.header
	f.header = nil
	f.payload = int(header[0])<<16 | int(header[1])<<8 | int(header[2])
	isSettings := http2.FrameType(header[3]) == http2.FrameSettings
	if isSettings && http2.Flags(header[4]).Has(http2.FlagSettingsAck) {
		f.done = true
		if f.payload != 0 {
			return fmt.Errorf("http2: acknowledgement of settings with %d bytes of payload", f.payload)
		}
		return nil
	}
	f.held = header
	return nil
}

// newAckFilter filters a connection that begins with the client preface.
func newAckFilter(c net.Conn) *ackFilter {
	return &ackFilter{Conn: c, payload: len(http2.ClientPreface)}
}
