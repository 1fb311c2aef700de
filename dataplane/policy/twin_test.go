package policy

// twin is a Snapshot that counts what is written to it.
type twin struct {
	*Snapshot
	writes int
}

func newTwin() *twin { return &twin{Snapshot: newSnapshot()} }

func (w *twin) apply(c *changes) {
	w.Snapshot.apply(c)
	w.writes += c.size()
}

// forwards is policy_judge of a packet that is no answer.
func (w *twin) forwards(p Packet) bool {
	return w.judge(Egress, p).allowed && w.judge(Ingress, p).allowed
}

func (w *twin) size() int {
	return len(w.rules) + len(w.groups) + len(w.blocks) + len(w.peers) + len(w.pods)
}

func (c *changes) size() int {
	return len(c.rules) + len(c.groups) + len(c.blocks) + len(c.peers) + len(c.pods) +
		len(c.podsGone) + len(c.peersGone) + len(c.blocksGone) + len(c.groupsGone) + len(c.narrowed) + len(c.rulesGone)
}
