package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/cofferkv/coffer/identity"
)

// startPort serves gRPC's health service and an HTTP handler on one plain port.
func startPort(t *testing.T, source *identitySource, plain bool) (addr string, callers chan *identity.Caller) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	callers = make(chan *identity.Caller, 100)
	log := zap.NewNop()
	grpcIn := newHandoff(l.Addr())
	gs := grpc.NewServer(grpc.Creds(doneCredentials{}))
	healthpb.RegisterHealthServer(gs, health.NewServer())
	hs := newHTTPServer(l.Addr(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		callers <- identity.FromContext(r.Context())
		body, _ := io.ReadAll(r.Body)
		_, _ = io.WriteString(w, r.Proto+" "+string(body))
	}), 100, log)
	p := &port{listener: l, tls: source, plain: plain, grpc: grpcIn, http: hs, log: log, rejected: "rejected", pending: map[net.Conn]bool{}}
	go func() { _ = gs.Serve(grpcIn) }()
	go func() { _ = hs.run() }()
	go func() { _ = p.run() }()
	t.Cleanup(func() {
		p.close()
		gs.Stop()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		hs.close(ctx)
	})
	return l.Addr().String(), callers
}

func http2Client() *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{Protocols: protocols}}
}

func TestOnePortSpeaksGRPCAndBothVersionsOfHTTP(t *testing.T) {
	addr, callers := startPort(t, nil, true)
	for range 3 {
		for proto, client := range map[string]*http.Client{"HTTP/1.1": {}, "HTTP/2.0": http2Client()} {
			resp, err := client.Post("http://"+addr+"/", "application/json", strings.NewReader("body"))
			require.NoError(t, err, proto)
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			resp.Body.Close()
			require.Equal(t, proto+" body", string(body))
			require.NotEmpty(t, (<-callers).RemoteAddr)
			// A second request on the same connection comes after both acknowledgements of settings.
			resp, err = client.Get("http://" + addr + "/")
			require.NoError(t, err, proto)
			resp.Body.Close()
			<-callers
		}
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		require.NoError(t, err)
		resp, err := healthpb.NewHealthClient(conn).Check(context.Background(), &healthpb.HealthCheckRequest{})
		require.NoError(t, err)
		require.Equal(t, healthpb.HealthCheckResponse_SERVING, resp.Status)
		require.NoError(t, conn.Close())
	}
}

func TestAnIdleGRPCConnectionMayPingBeforeItsFirstRequest(t *testing.T) {
	addr, _ := startPort(t, nil, true)
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = io.WriteString(c, http2.ClientPreface)
	require.NoError(t, err)
	f := http2.NewFramer(c, c)
	require.NoError(t, f.WriteSettings())
	require.NoError(t, f.WritePing(false, [8]byte{1, 2, 3}))
	for {
		frame, err := f.ReadFrame()
		require.NoError(t, err)
		if ping, ok := frame.(*http2.PingFrame); ok {
			require.True(t, ping.IsAck())
			return
		}
	}
}

func TestAKeepaliveOfAnIdleGRPCClientIsAnswered(t *testing.T) {
	addr, _ := startPort(t, nil, true)
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: time.Second, PermitWithoutStream: true}))
	require.NoError(t, err)
	defer conn.Close()
	conn.Connect()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for s := conn.GetState(); s.String() != "READY"; s = conn.GetState() {
		require.True(t, conn.WaitForStateChange(ctx, s), "a client that has sent no request yet is connected")
	}
	_, err = healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
}

// scripted is one end of a connection whose other end has said all it will say.
type scripted struct {
	net.Conn
	in  io.Reader
	out bytes.Buffer
}

func (s *scripted) Read(p []byte) (int, error)      { return s.in.Read(p) }
func (s *scripted) Write(p []byte) (int, error)     { return s.out.Write(p) }
func (s *scripted) SetReadDeadline(time.Time) error { return nil }

func preface(frames func(*http2.Framer)) []byte {
	var b bytes.Buffer
	b.WriteString(http2.ClientPreface)
	frames(http2.NewFramer(&b, nil))
	return b.Bytes()
}

func headers(fields ...string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for i := 0; i < len(fields); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return b.Bytes()
}

func request(contentType string) func(*http2.Framer) {
	return func(f *http2.Framer) {
		_ = f.WriteSettings()
		_ = f.WriteWindowUpdate(0, 1000)
		block := headers(":method", "POST", ":scheme", "http", ":path", "/", "content-type", contentType)
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:3]})
		_ = f.WriteContinuation(1, true, block[3:])
	}
}

func TestSniffingTellsProtocolsApartAndReturnsWhatItRead(t *testing.T) {
	for name, tt := range map[string]struct {
		sent []byte
		want protocol
		err  error
	}{
		"HTTP/1":                   {[]byte("GET / HTTP/1.1\r\n\r\n"), protocolHTTP1, nil},
		"almost the preface":       {[]byte("PRI * HTTP/2.0\r\n\r\nXX"), protocolHTTP1, nil},
		"gRPC":                     {preface(request("application/grpc+proto")), protocolGRPC, nil},
		"JSON over HTTP/2":         {preface(request("application/json")), protocolHTTP2, nil},
		"a ping before a request":  {preface(func(f *http2.Framer) { _ = f.WriteSettings(); _ = f.WritePing(false, [8]byte{}) }), protocolGRPC, nil},
		"no HTTP/2 after all":      {append(preface(func(*http2.Framer) {}), 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0), protocolGRPC, nil},
		"nothing":                  {nil, 0, io.EOF},
		"half a preface":           {[]byte("PRI * HTTP/2.0"), 0, io.EOF},
		"settings, then the end":   {preface(func(f *http2.Framer) { _ = f.WriteSettings() }), 0, io.EOF},
		"headers that never end":   {preface(endless), protocolGRPC, nil},
		"more than can be sniffed": {preface(long), protocolGRPC, nil},
	} {
		t.Run(name, func(t *testing.T) {
			c := &scripted{in: &oneByte{bytes.NewReader(tt.sent)}}
			got, seen, err := sniff(c)
			if tt.err != nil {
				require.ErrorIs(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
			rest, err := io.ReadAll(&replayed{Conn: c, first: seen})
			require.NoError(t, err)
			require.Equal(t, tt.sent, rest, "nothing is lost")
		})
	}
}

func endless(f *http2.Framer) {
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: headers(":method", "POST")})
	for range 40 {
		_ = f.WriteContinuation(1, false, bytes.Repeat(headers("a", strings.Repeat("b", 4000)), 2))
	}
}

func long(f *http2.Framer) {
	for range maxSniffed/9 + 100 {
		_ = f.WriteSettings()
	}
}

// oneByte hands out one byte at a time.
type oneByte struct{ r io.Reader }

func (o *oneByte) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return o.r.Read(p[:1])
}

func TestTheFirstAcknowledgementOfSettingsIsTakenOut(t *testing.T) {
	sent := preface(func(f *http2.Framer) {
		_ = f.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0})
		_ = f.WriteData(1, false, []byte("data"))
		_ = f.WriteSettingsAck()
		_ = f.WriteSettingsAck()
		_ = f.WriteData(1, true, []byte("more"))
	})
	want := preface(func(f *http2.Framer) {
		_ = f.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0})
		_ = f.WriteData(1, false, []byte("data"))
		_ = f.WriteSettingsAck()
		_ = f.WriteData(1, true, []byte("more"))
	})
	for _, in := range []io.Reader{bytes.NewReader(sent), &oneByte{bytes.NewReader(sent)}} {
		got, err := io.ReadAll(newAckFilter(&scripted{in: in}))
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err := io.ReadAll(newAckFilter(&scripted{in: io.MultiReader(bytes.NewReader(sent[:30]), errReader{})}))
	require.ErrorIs(t, err, errBroken)
}

var errBroken = errors.New("broken")

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errBroken }

func FuzzSniff(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add(preface(request("application/grpc")))
	f.Add(preface(request("application/json")))
	f.Add(preface(endless)[:2000])
	f.Fuzz(func(t *testing.T, sent []byte) {
		c := &scripted{in: bytes.NewReader(sent)}
		_, seen, err := sniff(c)
		if err != nil {
			return
		}
		rest, err := io.ReadAll(&replayed{Conn: c, first: seen})
		if err != nil || !bytes.Equal(rest, sent) {
			t.Fatalf("read %x, %v after sniffing %x", rest, err, sent)
		}
		filtered, _ := io.ReadAll(newAckFilter(&scripted{in: bytes.NewReader(sent)}))
		if len(filtered) > len(sent) {
			t.Fatalf("filtering %x gave %x", sent, filtered)
		}
	})
}

func TestPlainHTTPToATLSPortIsToldSo(t *testing.T) {
	source := testSource(t, nil)
	addr, _ := startPort(t, source, false)
	resp, err := http.Get("http://" + addr + "/health")
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusBadRequest, resp.StatusCode)

	// And a connection that says nothing holds nobody up.
	idle, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer idle.Close()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}}
	secure, err := client.Get("https://" + addr + "/")
	require.NoError(t, err)
	defer secure.Body.Close()
	require.Equal(t, "HTTP/2.0 ", bodyOf(t, secure))
}

func bodyOf(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return string(b)
}
