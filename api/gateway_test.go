package api

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// post sends JSON as curl would and returns the status and the body.
func (m *member) post(t testing.TB, path, body string) (int, string) {
	t.Helper()
	resp, err := http.Post(m.httpURL+path, "application/json", strings.NewReader(body))
	must(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, string(b)
}

func (m *member) get(t testing.TB, path string) (int, string) {
	t.Helper()
	resp, err := http.Get(m.httpURL + path)
	must(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, string(b)
}

func TestTheGatewaySpeaksEtcdsJSON(t *testing.T) {
	m := startMember(t)
	header := fmt.Sprintf(`"header":{"cluster_id":"%d","member_id":"%d","revision":"%%d","raft_term":"%d"}`,
		m.clusterID, m.id, m.node.Status().Term)
	k, v := b64("k"), b64("v")
	for _, c := range []struct {
		path, body string
		status     int
		want       string
	}{
		{"/v3/kv/put", `{"key":"` + k + `","value":"` + v + `"}`, 200, `{` + fmt.Sprintf(header, 2) + `}`},
		{"/v3/kv/range", `{"key":"` + k + `","unknown_field":[1]}`, 200,
			`{` + fmt.Sprintf(header, 2) + `,"kvs":[{"key":"` + k + `","create_revision":"2","mod_revision":"2","version":"1","value":"` + v + `"}],"count":"1"}`},
		{"/v3/kv/range", `{"key":"` + k + `","range_end":"AA==","count_only":true,"sort_order":"DESCEND","sort_target":"KEY"}`, 200,
			`{` + fmt.Sprintf(header, 2) + `,"count":"1"}`},
		{"/v3beta/kv/range", `{"key":"` + b64("none") + `"}`, 200, `{` + fmt.Sprintf(header, 2) + `}`},
		{"/v3/kv/txn", `{"compare":[{"target":"VERSION","key":"` + k + `","version":"1"}],"success":[{"requestDeleteRange":{"key":"` + k + `"}}]}`, 200,
			`{` + fmt.Sprintf(header, 3) + `,"succeeded":true,"responses":[{"response_delete_range":{"header":{"revision":"3"},"deleted":"1"}}]}`},
		{"/v3/kv/put", `{"value":"` + v + `"}`, 400, `{"code":3,"message":"etcdserver: key is not provided"}`},
		{"/v3/kv/range", `{"key":"` + k + `","revision":"99"}`, 400, `{"code":11,"message":"etcdserver: mvcc: required revision is a future revision"}`},
		{"/v3/lease/revoke", `{"ID":"9"}`, 404, `{"code":5,"message":"etcdserver: requested lease not found"}`},
		{"/v3/maintenance/hashkv", `{"revision":"0"`, 400, `{"code":3,"message":"the request is not a etcdserverpb.HashKVRequest in JSON"}`},
		{"/v3/kv/put", `{"key":"secret%"}`, 400, `{"code":3,"message":"the request is not a etcdserverpb.PutRequest in JSON (line 1:8)"}`},
		{"/v3/kv/put", `{"key":secret}`, 400, `{"code":3,"message":"the request is not a etcdserverpb.PutRequest in JSON (byte 8)"}`},
	} {
		status, got := m.post(t, c.path, c.body)
		if status != c.status {
			t.Errorf("%s %s: status %d, want %d: %s", c.path, c.body, status, c.status, got)
		}
		if c.want != "" && compact(t, got) != compact(t, c.want) {
			t.Errorf("%s %s:\ngot  %s\nwant %s", c.path, c.body, got, c.want)
		}
	}
}

// compact removes what protojson adds at random: space, and for errors the empty list of details.
func compact(t testing.TB, s string) string {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatalf("%v: %s", err, s)
	}
	if d, ok := v["details"].([]any); ok && len(d) == 0 {
		delete(v, "details")
	}
	b, err := json.Marshal(v)
	must(t, err)
	return string(b)
}

func TestTheGatewayRefusesWhatGRPCWouldNotReceive(t *testing.T) {
	m := startMember(t, func(o *memberOptions) { o.api.MaxRequestBytes = 1000 - messageOverhead })
	status, body := m.post(t, "/v3/kv/put", `{"key":"`+b64("k")+`","value":"`+b64(strings.Repeat("v", 2000))+`"}`)
	if status != http.StatusTooManyRequests || !strings.Contains(body, "larger than max") {
		t.Errorf("status %d: %s", status, body)
	}
	status, body = m.post(t, "/v3/kv/put", `{"key":"`+b64("k")+`","value":"`+b64(strings.Repeat("v", 4000))+`"}`)
	if status != http.StatusBadRequest || !strings.Contains(body, "request body too large") {
		t.Errorf("a body far too large: status %d: %s", status, body)
	}
}

func TestTheGatewayReadsNoMessageOfAStreamWithoutEnd(t *testing.T) {
	endless := io.MultiReader(strings.NewReader(`{"create_request":{"key":"`), io.LimitReader(letters{}, 1<<30))
	err := discreetJSON{&runtime.JSONPb{}, 4000}.NewDecoder(endless).Decode(&pb.WatchRequest{})
	if err != errMessageTooLong {
		t.Error(err)
	}

	// The bound is one of messages, not of streams.
	request := `{"create_request":{"key":"` + b64("k") + `"}}` + strings.Repeat(" ", 1000)
	decoder := discreetJSON{&runtime.JSONPb{}, 4000}.NewDecoder(strings.NewReader(strings.Repeat(request, 20)))
	for i := range 20 {
		if err := decoder.Decode(&pb.WatchRequest{}); err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
	}
}

type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'A'
	}
	return len(p), nil
}

func TestTheGatewayStreamsOverHTTP(t *testing.T) {
	m := startMember(t)
	resp, err := http.Post(m.httpURL+"/v3/watch", "application/json",
		strings.NewReader(`{"create_request":{"key":"`+b64("k")+`"}}`))
	must(t, err)
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	expectLine(t, lines, `"created":true`)
	m.put(t, "k", "v")
	expectLine(t, lines, `"mod_revision":"2"`)
}

func expectLine(t *testing.T, lines *bufio.Scanner, want string) {
	t.Helper()
	if !lines.Scan() {
		t.Fatalf("the stream ended: %v", lines.Err())
	}
	if got := strings.ReplaceAll(lines.Text(), " ", ""); !strings.HasPrefix(got, `{"result":{`) || !strings.Contains(got, want) {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestTheGatewayStreamsOverWebsockets(t *testing.T) {
	m := startMember(t)
	ws := m.websocket(t, "/v3/watch")
	must(t, ws.WriteMessage(websocket.TextMessage, []byte(`{"create_request":{"key":"`+b64("k")+`"}}`)))
	expectMessage(t, ws, `"created":true`)
	m.put(t, "k", "v")
	expectMessage(t, ws, `"mod_revision":"2"`)
	must(t, ws.WriteMessage(websocket.TextMessage, []byte(`{"cancel_request":{"watch_id":"0"}}`)))
	expectMessage(t, ws, `"canceled":true`)

	alive := m.websocket(t, "/v3/lease/keepalive")
	must(t, alive.WriteMessage(websocket.TextMessage, []byte(`{"ID":"5"}`)))
	expectMessage(t, alive, `"ID":"5"`)
}

func TestAStreamThatIsNotJSONIsAnswered(t *testing.T) {
	m := startMember(t, func(o *memberOptions) { o.api.MaxRequestBytes = 1000 - messageOverhead })
	const notJSON = `{"code":3,"message":"the request is not a etcdserverpb.%s in JSON%s"}`
	for _, c := range []struct {
		path, body string
		status     int
		want       string
	}{
		{"/v3/watch", `{"create_request":`, 400, fmt.Sprintf(notJSON, "WatchRequest", "")},
		{"/v3/watch", `{"create_request":{"key":"%"}}`, 400, fmt.Sprintf(notJSON, "WatchRequest", " (line 1:26)")},
		{"/v3/watch", `{"create_request":{"key":secret}}`, 400, fmt.Sprintf(notJSON, "WatchRequest", " (byte 26)")},
		{"/v3/watch", `{"create_request":{"key":"` + b64(strings.Repeat("k", 2000)) + `"}}`, 429, ""},
		{"/v3/watch", `{"create_request":{"key":"` + b64(strings.Repeat("k", 4000)) + `"}}`, 400, `{"code":3,"message":"http: request body too large"}`},
		{"/v3/lease/keepalive", `{"ID":`, 400, fmt.Sprintf(notJSON, "LeaseKeepAliveRequest", "")},
		{"/v3/lease/keepalive", `[]`, 400, fmt.Sprintf(notJSON, "LeaseKeepAliveRequest", " (line 1:1)")},
		{"/v3/lease/keepalive", ``, 200, ""},
	} {
		status, got := m.post(t, c.path, c.body)
		if status != c.status {
			t.Errorf("%s %.40s: status %d, want %d: %s", c.path, c.body, status, c.status, got)
		}
		if c.want != "" && (got == "" || compact(t, got) != compact(t, c.want)) {
			t.Errorf("%s %.40s:\ngot  %s\nwant %s", c.path, c.body, got, c.want)
		}
	}

	// What comes after a good message is a line of the stream.
	ws := m.websocket(t, "/v3/watch")
	must(t, ws.WriteMessage(websocket.TextMessage, []byte(`{"create_request":{"key":"`+b64("k")+`"}}`)))
	expectMessage(t, ws, `"created":true`)
	must(t, ws.WriteMessage(websocket.TextMessage, []byte(`{"create_request":[]}`)))
	expectMessage(t, ws, `{"error":{"code":3,"message":"therequestisnotaetcdserverpb.WatchRequestinJSON(line1:19)"`)
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		t.Errorf("the websocket ended with %v", err)
	}
}

func TestAWebsocketTakesNoMessageLargerThanABody(t *testing.T) {
	m := startMember(t, func(o *memberOptions) { o.api.MaxRequestBytes = 1<<20 - messageOverhead })
	key := strings.Repeat("k", 1000)
	request := `{"create_request":{"key":"` + b64(key) + `"}}`
	for _, size := range []int64{m.api.maxJSONBytes() + 1, 10 * m.api.maxJSONBytes()} {
		ws := m.websocket(t, "/v3/watch")
		must(t, ws.WriteMessage(websocket.TextMessage, []byte(request))) // the bound is one of messages, not of streams
		expectMessage(t, ws, `"created":true`)
		must(t, ws.WriteMessage(websocket.TextMessage, []byte(request[:len(request)-1]+strings.Repeat(" ", int(m.api.maxJSONBytes())-len(request))+"}")))
		expectMessage(t, ws, `"created":true`)
		must(t, ws.WriteMessage(websocket.TextMessage, []byte(strings.Repeat(" ", int(size)))))
		if _, got, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseMessageTooBig) {
			t.Errorf("%d bytes: got %q, %v", size, got, err)
		}
	}
}

func (m *member) websocket(t *testing.T, path string) *websocket.Conn {
	t.Helper()
	ws, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(m.httpURL, "http")+path, nil)
	must(t, err)
	t.Cleanup(func() { ws.Close() })
	must(t, ws.SetReadDeadline(time.Now().Add(10*time.Second)))
	return ws
}

func expectMessage(t *testing.T, ws *websocket.Conn, want string) {
	t.Helper()
	_, got, err := ws.ReadMessage()
	must(t, err)
	if s := strings.ReplaceAll(string(got), " ", ""); !strings.Contains(s, want) {
		t.Errorf("got %s, want %s", s, want)
	}
}
