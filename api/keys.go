package api

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferkv/coffer/api/cofferpb"
	"github.com/cofferkv/coffer/identity"
	"github.com/cofferkv/coffer/keyring"
	"github.com/cofferkv/coffer/seal"
)

// keysServer tells the operator about this member's data keys, and rotates them.
type keysServer struct {
	*API
	cofferpb.UnsafeKeysServer
}

var _ cofferpb.KeysServer = keysServer{}

var keyStates = map[keyring.State]cofferpb.KeyState{
	keyring.Active:      cofferpb.KeyState_KEY_STATE_ACTIVE,
	keyring.DecryptOnly: cofferpb.KeyState_KEY_STATE_DECRYPT_ONLY,
	keyring.Removed:     cofferpb.KeyState_KEY_STATE_REMOVED,
}

func (s keysServer) List(ctx context.Context, _ *cofferpb.ListRequest) (*cofferpb.ListResponse, error) {
	if err := s.permitRoot(ctx); err != nil {
		return nil, err
	}
	kr := s.o.Keyring
	resp := &cofferpb.ListResponse{ClusterId: s.o.ClusterID, MemberId: s.o.MemberID, Generation: kr.Generation()}
	keys := make(map[keyring.ID]*cofferpb.DataKey)
	for _, k := range kr.Keys() {
		key := &cofferpb.DataKey{
			Id: k.ID.String(), State: keyStates[k.State],
			CreatedUnix: unix(k.Created), DeactivatedUnix: unix(k.Deactivated), RemovedUnix: unix(k.Removed),
			Since: k.Since, Until: k.Until, KekIds: k.KEKs,
		}
		keys[k.ID] = key
		resp.Keys = append(resp.Keys, key)
	}
	// Keys first, then what is under them: a key that is said to be removed has nothing under it.
	usage, err := s.o.FS.Inventory(s.o.SealedDirs...)
	if err != nil {
		return nil, status.Error(codes.Internal, fmt.Sprintf("counting what is under each data key: %v", err))
	}
	for _, u := range usage {
		if u.Kind == seal.KindForeign {
			resp.ForeignFiles, resp.ForeignBytes = u.Names, u.Bytes
		}
		if key := keys[u.Key]; key != nil {
			key.Files += int64(u.Files)
			key.Bytes += u.Bytes
		}
	}
	for _, w := range kr.Wraps() {
		resp.Wraps = append(resp.Wraps, wrapMessage(w))
	}
	return resp, nil
}

func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func (s keysServer) Rotate(ctx context.Context, _ *cofferpb.RotateRequest) (*cofferpb.RotateResponse, error) {
	if err := s.permitRoot(ctx); err != nil {
		return nil, err
	}
	caller := identity.FromContext(ctx)
	id, err := s.node.RotateKeys(ctx)
	if err != nil {
		s.log.Error("failed to rotate data keys", zap.Stringer("caller", caller), zap.Error(err))
		return nil, status.Error(codes.Internal, fmt.Sprintf("rotating data keys: %v", err))
	}
	s.log.Info("data keys rotated on request", zap.Stringer("caller", caller), zap.Stringer("active-key", id))
	return &cofferpb.RotateResponse{KeyId: id.String(), Generation: s.o.Keyring.Generation()}, nil
}
