// Package auth decides who may do what: users, roles, the permissions of roles on keys, and the tokens by which requests
// name their user. It behaves as etcd's auth does.
//
// State is the replicated part, users and roles. A State is never changed: a command makes a new one out of it, in the
// order of the log, so that every member decides alike at the same place of the log. The store publishes it through an
// atomic pointer, and checks take no lock.
//
// A State has a revision, which every change of users and roles raises. A request is checked where it comes in, at some
// revision, and carries that revision; when it is applied, or after it has read, a newer revision refuses it. So no
// decision rests on permissions that have been taken away.
//
// Tokens, passwords and failed logins are the member's own business. A password ends at the member that received it: the
// log has its hash only. Neither passwords nor tokens are ever logged or part of an error.
package auth
