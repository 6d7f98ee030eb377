package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cofferkv/coffer/keyring"
	"github.com/cofferkv/coffer/kms"
)

var update = flag.Bool("update-vectors", false, "write testdata/vectors.json anew; only for a new version of the format")

// A hexBytes is bytes, in JSON as hexadecimal digits.
type hexBytes []byte

func (b hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(b)), nil }

func (b *hexBytes) UnmarshalText(text []byte) (err error) {
	*b, err = hex.DecodeString(string(text))
	return err
}

type vectors struct {
	Comment  string   `json:"comment"`
	KEK      hexBytes `json:"kek"`      // content of the KEK's file
	Keyring  hexBytes `json:"keyring"`  // content of KEYRING
	DataKey  hexBytes `json:"data_key"` // the only one in it
	Files    []vector `json:"files"`
	Snapshot vector   `json:"snapshot"`
}

type vector struct {
	Name    string     `json:"name"`
	Sealed  hexBytes   `json:"sealed"`
	Content []hexBytes `json:"content"` // data of the frames, one by one
	Ended   bool       `json:"ended,omitempty"`
	Torn    bool       `json:"torn,omitempty"`
}

const vectorFile = "testdata/vectors.json"

func loadVectors(t testing.TB) vectors {
	t.Helper()
	b, err := os.ReadFile(vectorFile)
	must(t, err)
	var v vectors
	must(t, json.Unmarshal(b, &v))
	return v
}

func (v vectors) open(t testing.TB) (*FS, *vfs.MemFS, *kms.KEK) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kek")
	must(t, os.WriteFile(path, v.KEK, 0o600))
	kek, err := kms.Open("file:" + path)
	must(t, err)
	t.Cleanup(kek.Close)
	base := vfs.NewMem()
	setRaw(t, base, "KEYRING", v.Keyring)
	kr, err := keyring.Open(base, "KEYRING", kek)
	must(t, err)
	t.Cleanup(kr.Close)
	return New(base, kr, Options{}), base, kek
}

func TestVectorsAreReadAsTheyWereWritten(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	v := loadVectors(t)
	fs, base, kek := v.open(t)
	for _, file := range v.Files {
		setRaw(t, base, file.Name, file.Sealed)
		if kind, _ := KindOf(file.Name); kind == KindJournal {
			i := 0
			end, err := fs.ReadSegment(file.Name, func(f Frame, p []byte) error {
				if !bytes.Equal(p, file.Content[i]) {
					t.Errorf("%s: frame %d is not as in the vectors", file.Name, i)
				}
				i++
				return nil
			})
			must(t, err)
			if i != len(file.Content) || end.Ended != file.Ended || end.Torn != file.Torn {
				t.Errorf("%s: %d frames, %+v", file.Name, i, end)
			}
			continue
		}
		got, err := read(fs, file.Name)
		must(t, err)
		var want []byte
		for _, c := range file.Content {
			want = append(want, c...)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not as in the vectors", file.Name)
		}
	}
	got, err := readSnapshot(v.Snapshot.Sealed, kek)
	must(t, err)
	if !bytes.Equal(got, v.Snapshot.Content[0]) {
		t.Error("the snapshot is not as in the vectors")
	}
}

// The specification is enough: what follows reads the vectors with nothing but
// FORMAT.md and the standard library.
func TestVectorsAreReadByTheSpecificationAlone(t *testing.T) {
	v := loadVectors(t)
	for _, file := range v.Files {
		b := file.Sealed
		head := b[:512]
		keys, err := hkdf.Key(sha256.New, v.DataKey, head[64:96], "coffer file v1"+string(head[:480]), 64)
		must(t, err)
		if !bytes.Equal(keys[32:], head[480:]) {
			t.Fatalf("%s: header tag", file.Name)
		}
		if name := string(head[96 : 96+int(head[17])]); name != file.Name {
			t.Fatalf("%s: it says it is %s", file.Name, name)
		}
		kind := head[16]
		log := kind == 1 || kind == 4 || kind == 7 || kind == 9
		index, at := uint64(0), 512
		for at < len(b) && index < uint64(len(file.Content)) {
			text, final, n := openFrame(t, keys[:32], index, b[at:])
			if log {
				text = text[20:][:binary.LittleEndian.Uint32(text)]
			}
			if !bytes.Equal(text, file.Content[index]) {
				t.Fatalf("%s: frame %d", file.Name, index)
			}
			at += n
			index++
			if final != (!log && at == len(b)) {
				t.Fatalf("%s: frame %d is final: %v", file.Name, index, final)
			}
		}
		if index != uint64(len(file.Content)) {
			t.Fatalf("%s has %d frames", file.Name, index)
		}
		if file.Ended {
			if _, final, n := openFrame(t, keys[:32], index, b[len(b)-512:]); !final || n != 512 {
				t.Fatalf("%s: end mark", file.Name)
			}
		}
	}
	readSnapshotBySpecification(t, v)
}

func readSnapshotBySpecification(t *testing.T, v vectors) {
	b := v.Snapshot.Sealed
	size := binary.LittleEndian.Uint32(b[12:])
	head, salt, list := b[:size], b[56:88], b[88:]
	for range 2 { // id, URI
		list = list[2+binary.LittleEndian.Uint16(list):]
	}
	wrapped := list[2:][:binary.LittleEndian.Uint16(list)]
	secret := append(bytes.Clone(v.KEK), "coffer kek v1 padded to a block."...)
	wrapKey, err := hkdf.Key(sha256.New, secret, wrapped[:32], "coffer kek wrap v1", 32)
	must(t, err)
	key, err := gcm(t, wrapKey).Open(nil, nil, wrapped[32:], append([]byte("coffer snapshot key v1"), salt...))
	must(t, err)
	keys, err := hkdf.Key(sha256.New, key, salt, "coffer snapshot v1"+string(head[:size-32]), 64)
	must(t, err)
	if !bytes.Equal(keys[32:], head[size-32:]) {
		t.Fatal("snapshot: header tag")
	}
	text, final, n := openFrame(t, keys[:32], 0, b[size:])
	if !final || !bytes.Equal(text[20:][:binary.LittleEndian.Uint32(text)], v.Snapshot.Content[0]) {
		t.Fatal("snapshot: content")
	}
	end := int(size) + n
	if sum := sha256.Sum256(b[:end]); !bytes.Equal(b[end:], sum[:]) {
		t.Fatal("snapshot: checksum")
	}
}

func gcm(t *testing.T, key []byte) cipher.AEAD {
	t.Helper()
	block, err := aes.NewCipher(key)
	must(t, err)
	aead, err := cipher.NewGCMWithRandomNonce(block)
	must(t, err)
	return aead
}

func openFrame(t *testing.T, key []byte, index uint64, b []byte) (text []byte, final bool, n int) {
	t.Helper()
	word := binary.LittleEndian.Uint32(b)
	n = 4 + 12 + int(word&^(1<<31)) + 16
	aad := binary.LittleEndian.AppendUint64(nil, index)
	text, err := gcm(t, key).Open(nil, nil, b[4:n], append(aad, b[:4]...))
	must(t, err)
	return text, word>>31 == 1, n
}

func writeVectors(t *testing.T) {
	v := vectors{Comment: "Sealed files of version 1, for FORMAT.md. All bytes in hexadecimal. Content is the data of the frames, in order."}
	v.KEK = random(7, 32)
	path := filepath.Join(t.TempDir(), "kek")
	must(t, os.WriteFile(path, v.KEK, 0o600))
	kek, err := kms.Open("file:" + path)
	must(t, err)
	defer kek.Close()
	base := vfs.NewMem()
	kr, err := keyring.Create(base, "KEYRING", testMember, kek)
	must(t, err)
	v.Keyring = raw(t, base, "KEYRING")
	v.DataKey = dataKey(t, v)
	fs := New(base, kr, Options{})

	for _, size := range []int{0, 100, tableFrame, tableFrame + 100} {
		name := map[int]string{0: "OPTIONS-000001", 100: "000002.blob", tableFrame: "ballast", tableFrame + 100: "000003.sst"}[size]
		content := random(1, size)
		write(t, fs, name, content)
		file := vector{Name: name, Sealed: raw(t, base, name), Content: []hexBytes{content[:min(size, tableFrame)]}}
		if size > tableFrame {
			file.Content = append(file.Content, content[tableFrame:])
		}
		v.Files = append(v.Files, file)
	}
	write(t, fs, "marker.manifest.000001.MANIFEST-000001", nil)
	v.Files = append(v.Files, vector{Name: "marker.manifest.000001.MANIFEST-000001", Sealed: raw(t, base, "marker.manifest.000001.MANIFEST-000001")})

	log := vector{Name: "MANIFEST-000001"}
	f, err := fs.Create(log.Name, writeCategory)
	must(t, err)
	for i, n := range []int{1, 460, 461} {
		log.Content = append(log.Content, random(uint64(i), n))
		_, err := f.Write(random(uint64(i), n))
		must(t, err)
		must(t, f.Sync())
	}
	must(t, f.Close())
	log.Sealed = raw(t, base, log.Name)
	v.Files = append(v.Files, log)

	for _, name := range []string{"1.journal", "2.journal", "3.journal"} {
		segment := vector{Name: name, Ended: name == "1.journal", Torn: name == "2.journal"}
		s, err := fs.CreateSegment(name, 4096)
		must(t, err)
		for i, n := range []int{0, 10, 500} {
			segment.Content = append(segment.Content, random(uint64(i), n))
			_, err := s.Append(random(uint64(i), n))
			must(t, err)
			must(t, s.Sync())
		}
		if segment.Ended {
			must(t, s.End())
		}
		must(t, s.Close())
		segment.Sealed = raw(t, base, name)
		if segment.Torn {
			clear(segment.Sealed[s.Offset()-sector : s.Offset()])
			segment.Content = segment.Content[:2]
		}
		v.Files = append(v.Files, segment)
	}

	var b bytes.Buffer
	w, err := NewSnapshotWriter(&b, kr, testMeta)
	must(t, err)
	_, err = w.Write(random(1, 1000))
	must(t, err)
	must(t, w.Close())
	v.Snapshot = vector{Name: "snapshot", Sealed: b.Bytes(), Content: []hexBytes{random(1, 1000)}}

	text, err := json.MarshalIndent(v, "", " ")
	must(t, err)
	must(t, os.WriteFile(vectorFile, append(text, '\n'), 0o644))
}

// dataKey opens the keyring as keyring/format.go describes it, and returns the
// data key, which the package itself never shows.
func dataKey(t *testing.T, v vectors) []byte {
	b := v.Keyring[8+2+2+8+8+8+2:]
	for range 2 { // id, URI
		b = b[2+binary.LittleEndian.Uint16(b):]
	}
	b = b[3*8+32:]
	wrapped := b[2:][:binary.LittleEndian.Uint16(b)]
	b = b[2+len(wrapped)+2:]
	id, entry := b[:16], b[16+32:][:28+105]
	secret := append(bytes.Clone(v.KEK), "coffer kek v1 padded to a block."...)
	wrapKey, err := hkdf.Key(sha256.New, secret, wrapped[:32], "coffer kek wrap v1", 32)
	must(t, err)
	context := binary.LittleEndian.AppendUint64([]byte("coffer keyring v1"), testMember.ClusterID)
	context = binary.LittleEndian.AppendUint64(context, testMember.MemberID)
	root, err := gcm(t, wrapKey).Open(nil, nil, wrapped[32:], context)
	must(t, err)
	entryKey, err := hkdf.Key(sha256.New, root, id, "coffer keyring entry v1", 32)
	must(t, err)
	text, err := gcm(t, entryKey).Open(nil, nil, entry, append(context, id...))
	must(t, err)
	return text[len(text)-64:]
}

func FuzzHeader(f *testing.F) {
	for _, file := range loadVectors(f).Files {
		f.Add([]byte(file.Sealed[:headerSize]))
	}
	fs, base := newTestFS(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		if hdr, err := parseHeader(b); err == nil {
			again, err := parseHeader(hdr.encode())
			if err != nil || again != hdr {
				t.Fatalf("%+v became %+v, %v", hdr, again, err)
			}
		}
		// No header opens that was not sealed here.
		for _, path := range []string{"db/000001.sst", "db/MANIFEST-000001", "db/000001.log"} {
			setRaw(t, base, path, b)
			if got, err := read(fs, path); err == nil && len(got) > 0 {
				t.Fatalf("%s was read", path)
			} else if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatal(err)
			}
		}
	})
}

// Whatever is done to the frames of a file, what is read is what was written: the
// whole file if it is written once, a part from the beginning if it is a log.
func FuzzFrames(f *testing.F) {
	content := random(1, 2*tableFrame+50)
	f.Add(uint16(headerSize), []byte{1}, uint16(0))
	f.Add(uint16(headerSize+2), []byte{0x80}, uint16(100))
	f.Add(uint16(headerSize+frameSize), []byte{0, 0, 0, 0, 1}, uint16(frameSize))
	fs, base := newTestFS(f)
	paths := []string{"db/000001.sst", "db/MANIFEST-000001", seg}
	sealed := make(map[string][]byte)
	for _, path := range paths[:2] {
		w, err := fs.Create(path, writeCategory)
		must(f, err)
		for piece := range pieces(content, 1000) {
			_, err := w.Write(bytes.Clone(piece))
			must(f, err)
			if path != paths[0] {
				must(f, w.Sync())
			}
		}
		must(f, w.Close())
		sealed[path] = raw(f, base, path)
	}
	s, err := fs.CreateSegment(seg, 32<<10)
	must(f, err)
	for piece := range pieces(content, 1000) {
		_, err := s.Append(piece)
		must(f, err)
		must(f, s.Sync())
	}
	must(f, s.Close())
	sealed[seg] = raw(f, base, seg)
	f.Fuzz(func(t *testing.T, at uint16, xor []byte, cut uint16) {
		for _, path := range paths {
			b := bytes.Clone(sealed[path])
			for i, x := range xor {
				if j := headerSize + int(at) + i; j < len(b) {
					b[j] ^= x
				}
			}
			b = b[:max(headerSize, len(b)-int(cut))]
			setRaw(t, base, path, b)
			var got []byte
			var err error
			if path == seg {
				_, err = fs.ReadSegment(path, func(_ Frame, p []byte) error { got = append(got, p...); return nil })
			} else {
				got, err = read(fs, path)
			}
			if !bytes.HasPrefix(content, got) || err == nil && path == paths[0] && len(got) != len(content) {
				t.Fatalf("%s: read what was not written", path)
			}
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatal(err)
			}
		}
	})
}

func FuzzSnapshot(f *testing.F) {
	v := loadVectors(f)
	_, _, kek := v.open(f)
	f.Add([]byte(v.Snapshot.Sealed))
	f.Fuzz(func(t *testing.T, b []byte) {
		ReadSnapshotMeta(bytes.NewReader(b))
		got, err := readSnapshot(b, kek)
		if err == nil && !bytes.Equal(got, v.Snapshot.Content[0]) {
			t.Fatal("read what was not written")
		}
	})
}
