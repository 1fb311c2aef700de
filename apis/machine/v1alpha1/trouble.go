package v1alpha1

import "time"

// TroubleFile is where the control plane's process says why it cannot serve,
// for as long as it cannot. It is on the machine's tmpfs: the disk may be what
// the trouble is with.
const TroubleFile = RunDir + "/trouble.json"

// KubeletTroubleFile is where the node's process says why its kubelet does not
// start, for as long as it does not.
const KubeletTroubleFile = RunDir + "/kubelet-trouble.json"

// Trouble of a control plane or a kubelet with its files, or of a control plane
// with the existing etcd that it is to use.
type Trouble struct {
	// Servers are the URLs of an etcd that does not answer; there is no File
	// then.
	Servers []string `json:"servers,omitempty"`
	// File is a path in the machine.
	File string `json:"file,omitempty"`
	// Damaged: what is in it is not what was written.
	Damaged bool      `json:"damaged,omitempty"`
	Cause   string    `json:"cause"`
	Since   time.Time `json:"since"`
}

// CrashLoopFile is where init says of a service that it keeps ending, for as
// long as it does.
func CrashLoopFile(service string) string { return RunDir + "/crash-loop-" + service + ".json" }

// CrashLoop is a process that keeps ending soon after it is started. It is
// started again, each time after a longer pause.
type CrashLoop struct {
	// Service is the process; empty: the machine itself.
	Service string `json:"service,omitempty"`
	// Ended is how often it did, one time after another, and Since when it did
	// so first.
	Ended int       `json:"ended"`
	Since time.Time `json:"since"`
	// Last is how it ended the last time, or why it did not start.
	Last string `json:"last"`
}
