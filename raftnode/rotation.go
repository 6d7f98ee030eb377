package raftnode

type rotator struct{}

func newRotator(n *Node) *rotator { return &rotator{} }
func (r *rotator) run()           {}
