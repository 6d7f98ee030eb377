package auth

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// The language of the scripts in testdata, one command a line:
//
//	enable | disable
//	user add NAME [no-password] | user delete NAME | user password NAME
//	role add NAME | role delete NAME
//	grant USER ROLE | revoke USER ROLE
//	allow ROLE (read|write|readwrite) KEYS | forbid ROLE KEYS
//	can USER (read|write) KEYS...      USER@N was checked at revision N
//	root USER | login USER | roles-of USER | permissions-of ROLE
//	show                               everything there is
//
// KEYS is a key, A..B (B excluded) or A.. (all keys from A on). "-" is the empty string. A command prints what came of it
// and the revision after it. After every change the stored records must make the same state again.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		m := newMachine(t)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			m.t = t
			var out strings.Builder
			for line := range strings.Lines(d.Input) {
				if line = strings.TrimSpace(line); line != "" {
					fmt.Fprintf(&out, "%s: %s\n", line, m.run(strings.Fields(line)))
				}
			}
			return out.String()
		})
	})
}

// machine is a state and the records that are stored of it.
type machine struct {
	t       *testing.T
	s       *State
	enabled bool
	rev     uint64
	users   map[string][]byte
	roles   map[string][]byte
}

func newMachine(t *testing.T) *machine {
	return &machine{t: t, s: New(), rev: firstRevision, users: map[string][]byte{}, roles: map[string][]byte{}}
}

func (m *machine) encode(p proto.Message) []byte {
	b, err := proto.Marshal(p)
	if err != nil {
		m.t.Fatal(err)
	}
	return b
}

func (m *machine) PutUser(u *authpb.User)        { m.users[string(u.Name)] = m.encode(u) }
func (m *machine) DeleteUser(name string)        { delete(m.users, name) }
func (m *machine) PutRole(r *authpb.Role)        { m.roles[string(r.Name)] = m.encode(r) }
func (m *machine) DeleteRole(name string)        { delete(m.roles, name) }
func (m *machine) PutStatus(on bool, rev uint64) { m.enabled, m.rev = on, rev }

// take makes n the state, unless there was an error, and returns what to print.
func (m *machine) take(n *State, err error) string {
	if err != nil {
		return err.Error()
	}
	changed := n != m.s
	m.s = n
	again := m.load()
	if a, b := describe(m.s), describe(again); a != b {
		m.t.Errorf("the state is\n%sand that of the records\n%s", a, b)
	}
	if !changed {
		return fmt.Sprintf("no change, revision %d", n.Revision())
	}
	return fmt.Sprintf("revision %d", n.Revision())
}

func (m *machine) load() *State {
	r := Records{Enabled: m.enabled, Revision: m.rev}
	for _, b := range m.users {
		u := &authpb.User{}
		if err := proto.Unmarshal(b, u); err != nil {
			m.t.Fatal(err)
		}
		r.Users = append(r.Users, u)
	}
	for _, b := range m.roles {
		role := &authpb.Role{}
		if err := proto.Unmarshal(b, role); err != nil {
			m.t.Fatal(err)
		}
		r.Roles = append(r.Roles, role)
	}
	s, err := Load(r)
	if err != nil {
		m.t.Fatal(err)
	}
	return s
}

func (m *machine) run(w []string) string {
	for i := range w {
		if w[i] == "-" {
			w[i] = ""
		}
	}
	hash := base64.StdEncoding.EncodeToString([]byte("hash"))
	switch command := strings.Join(w[:min(2, len(w))], " "); {
	case w[0] == "enable":
		return m.take(m.s.Enable(m))
	case w[0] == "disable":
		return m.take(m.s.Disable(m))
	case command == "user add":
		r := &pb.AuthUserAddRequest{Name: w[2], HashedPassword: hash}
		if slices.Contains(w, "no-password") {
			r.Options = &authpb.UserAddOptions{NoPassword: true}
		}
		return m.take(m.s.AddUser(m, r))
	case command == "user delete":
		return m.take(m.s.DeleteUser(m, w[2]))
	case command == "user password":
		return m.take(m.s.ChangePassword(m, &pb.AuthUserChangePasswordRequest{Name: w[2], HashedPassword: hash}))
	case command == "role add":
		return m.take(m.s.AddRole(m, w[2]))
	case command == "role delete":
		return m.take(m.s.DeleteRole(m, w[2]))
	case w[0] == "grant":
		return m.take(m.s.GrantRole(m, w[1], w[2]))
	case w[0] == "revoke":
		return m.take(m.s.RevokeRole(m, w[1], w[2]))
	case w[0] == "allow":
		if len(w) < 4 {
			return m.take(m.s.GrantPermission(m, w[1], nil))
		}
		key, end := keys(w[3])
		kind := authpb.Permission_Type(authpb.Permission_Type_value[strings.ToUpper(w[2])])
		return m.take(m.s.GrantPermission(m, w[1], &authpb.Permission{PermType: kind, Key: key, RangeEnd: end}))
	case w[0] == "forbid":
		key, end := keys(w[2])
		return m.take(m.s.RevokePermission(m, w[1], key, end))
	case w[0] == "can":
		check := m.s.CheckRead
		if w[2] == "write" {
			check = m.s.CheckWrite
		}
		var out []string
		for _, k := range w[3:] {
			key, end := keys(k)
			out = append(out, outcome(check(m.caller(w[1]), key, end)))
		}
		return strings.Join(out, ", ")
	case w[0] == "root":
		return outcome(m.s.CheckRoot(m.caller(w[1])))
	case w[0] == "login":
		return outcome(m.s.CanLogIn(w[1]))
	case w[0] == "roles-of":
		roles, err := m.s.RolesOf(w[1])
		if err != nil {
			return err.Error()
		}
		return strings.Join(roles, " ")
	case w[0] == "permissions-of":
		perms, err := m.s.PermissionsOf(w[1])
		if err != nil {
			return err.Error()
		}
		return strings.Join(describePermissions(perms), ", ")
	case w[0] == "show":
		return "\n" + describe(m.s)
	}
	m.t.Fatalf("unknown command %q", w)
	return ""
}

func outcome(err error) string {
	if err == nil {
		return "yes"
	}
	return err.Error()
}

// caller parses USER[@REVISION]; nobody has no revision.
func (m *machine) caller(s string) Caller {
	name, at, old := strings.Cut(s, "@")
	if name == "" {
		return Caller{}
	}
	c := Caller{Name: name, Revision: m.s.Revision()}
	if old {
		n, err := strconv.ParseUint(at, 10, 64)
		if err != nil {
			m.t.Fatal(err)
		}
		c.Revision = n
	}
	return c
}

func keys(s string) (key, end []byte) {
	k, e, isRange := strings.Cut(s, "..")
	if k == "-" {
		k = ""
	}
	switch {
	case !isRange:
		return []byte(k), nil
	case e == "":
		return []byte(k), []byte{0}
	}
	return []byte(k), []byte(e)
}

func describe(s *State) string {
	var b strings.Builder
	fmt.Fprintf(&b, "enabled=%v revision=%d\n", s.Enabled(), s.Revision())
	for _, name := range s.Users() {
		u := s.users[name]
		fmt.Fprintf(&b, "user %s roles=%v root=%v password=%q none=%v\n", name, u.Roles, u.root, u.Password, u.Options.GetNoPassword())
		fmt.Fprintf(&b, "  read %s write %s\n", describeIntervals(u.permissions().read), describeIntervals(u.permissions().write))
	}
	for _, name := range s.Roles() {
		fmt.Fprintf(&b, "role %s %v\n", name, describePermissions(s.roles[name].KeyPermission))
	}
	return b.String()
}

func describePermissions(perms []*authpb.Permission) (out []string) {
	for _, p := range perms {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %q %q", p.PermType, p.Key, p.RangeEnd)))
	}
	return out
}

func describeIntervals(is intervals) string {
	var out []string
	for _, i := range is {
		out = append(out, fmt.Sprintf("[%q,%q)", i.begin, i.end))
	}
	return "{" + strings.Join(out, " ") + "}"
}
