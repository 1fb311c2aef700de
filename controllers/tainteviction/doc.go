// Package tainteviction deletes Pods that do not tolerate a NoExecute taint of
// their node, at once or when their tolerationSeconds are over, in place of
// upstream's taint-eviction-controller, whose timers run on the machine's clock
// and cannot be given another.
//
// As upstream's, the seconds count from when the taint is first seen with the
// Pod; a toleration that is shortened later changes nothing about them; and
// after a restart they count anew. A Pod that is made again under the name of
// one that was about to go has its full time, where upstream's may go with the
// other's.
package tainteviction
