// Package union puts a node's private content store and snapshotter on top of
// the host's shared image store. What the shared store has is read there and
// never copied or deleted; everything else is private.
package union
