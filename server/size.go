package server

import (
	"time"

	"go.uber.org/zap"
)

const (
	sizeLook = time.Minute
	// largeStore is from which size on a store without a quota is worth a word. It is no limit: it is what is commonly told
	// of etcd, and a store that has grown so large without anybody's intention is a client that never deletes.
	largeStore = 8 << 30
)

// sizeThreshold is from which size on the member warns.
func sizeThreshold(quota int64) int64 {
	if quota <= 0 {
		return largeStore
	}
	return quota / 10 * 8
}

// watchSize warns once of a store that has grown large, and again after it had become smaller.
func (s *Server) watchSize() error {
	t := time.NewTicker(sizeLook)
	defer t.Stop()
	threshold, warned := sizeThreshold(s.c.Quota()), false
	for {
		_, size := s.store.DB().Size()
		if size >= threshold && !warned {
			s.log.Warn("the store has grown large: compact it, and look for keys that are never deleted",
				zap.Int64("size-bytes", size), zap.Int64("threshold-bytes", threshold), zap.Int64("quota-backend-bytes", s.c.Quota()))
		}
		warned = size >= threshold
		select {
		case <-t.C:
		case <-s.serving.stopping:
			return nil
		}
	}
}
