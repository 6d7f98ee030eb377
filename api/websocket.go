package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/zap"
)

// closingTime is how long the other end of a websocket gets to close it too.
const closingTime = time.Second

var upgrader = websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }} // as in etcd; guard comes first

// websockets serves the streams of next, which take JSON values in the body of a POST and answer in lines, over websockets
// too: a message is a value, an answer of one line a message. A message may be as large as a body.
func (a *API) websockets(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if websocket.IsWebSocketUpgrade(r) {
			a.serveWebsocket(next, w, r)
		} else {
			next.ServeHTTP(w, r)
		}
	})
}

func (a *API) serveWebsocket(next http.Handler, w http.ResponseWriter, r *http.Request) {
	// Browsers can send a token only as the name of a protocol, or in a cookie.
	var header http.Header
	protocol := r.Header.Get("Sec-WebSocket-Protocol")
	if strings.HasPrefix(protocol, "Bearer") {
		header = http.Header{"Sec-WebSocket-Protocol": {"Bearer"}}
	}
	conn, err := upgrader.Upgrade(w, r, header)
	if err != nil {
		a.log.Warn("failed to begin a websocket", zap.String("remote-addr", r.RemoteAddr), zap.Error(err))
		return // Upgrade has answered
	}
	defer conn.Close()
	conn.SetReadLimit(a.maxJSONBytes())

	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	body, messages := io.Pipe()
	request := r.Clone(ctx)
	request.Method = http.MethodPost // a websocket begins as a GET
	request.Body, request.ContentLength = body, -1
	if _, token, ok := strings.Cut(protocol, "Bearer,"); ok {
		request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(token))
	}
	if cookie, err := r.Cookie("token"); err == nil {
		request.Header.Set("Authorization", "Bearer "+cookie.Value)
	}

	received := make(chan struct{})
	go func() {
		defer close(received)
		err := receive(conn, messages)
		cancel()
		messages.Close()
		if errors.Is(err, websocket.ErrReadLimit) { // which has closed the websocket with the code for it
			a.log.Warn("closed a websocket: its message is too large", zap.String("remote-addr", r.RemoteAddr), zap.Int64("limit", a.maxJSONBytes()))
			// A connection that is closed with bytes unread may take the reason with it.
			_, _ = io.Copy(io.Discard, conn.UnderlyingConn())
		}
	}()
	answer := &messageWriter{conn: conn, header: make(http.Header)}
	next.ServeHTTP(answer, request)
	body.Close()
	_ = answer.send()
	until := time.Now().Add(closingTime)
	_ = conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), until)
	_ = conn.SetReadDeadline(until)
	<-received
}

// receive copies messages, until the websocket is closed; those that nobody reads any more are dropped.
func receive(conn *websocket.Conn, messages io.Writer) error {
	for {
		_, message, err := conn.NextReader()
		if err != nil {
			return err
		}
		_, _ = io.Copy(messages, message) // if it was conn that failed, it will again
	}
}

// messageWriter answers in messages, one for each line.
type messageWriter struct {
	conn   *websocket.Conn
	header http.Header
	line   []byte
}

func (w *messageWriter) Header() http.Header { return w.header }
func (w *messageWriter) WriteHeader(int)     {}
func (w *messageWriter) Flush()              {}

func (w *messageWriter) Write(p []byte) (int, error) {
	n := len(p)
	for {
		line, rest, ended := bytes.Cut(p, []byte("\n"))
		w.line = append(w.line, line...)
		if !ended {
			return n, nil
		}
		if err := w.send(); err != nil {
			return 0, err
		}
		p = rest
	}
}

func (w *messageWriter) send() error {
	if len(w.line) == 0 {
		return nil
	}
	err := w.conn.WriteMessage(websocket.TextMessage, w.line)
	w.line = w.line[:0]
	return err
}
