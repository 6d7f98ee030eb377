package raftnode

func (n *Node) runTrim() {}
