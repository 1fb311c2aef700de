package v1alpha1

import "time"

// TroubleFile is where the control plane's process says why it cannot serve,
// for as long as it cannot. It is on the machine's tmpfs: the disk may be what
// the trouble is with.
const TroubleFile = RunDir + "/trouble.json"

// KubeletTroubleFile is where the node's process says why its kubelet does not
// start, for as long as it does not.
const KubeletTroubleFile = RunDir + "/kubelet-trouble.json"

// Trouble of a control plane or a kubelet with its files.
type Trouble struct {
	// File is a path in the machine.
	File string `json:"file"`
	// Damaged: what is in it is not what was written.
	Damaged bool      `json:"damaged,omitempty"`
	Cause   string    `json:"cause"`
	Since   time.Time `json:"since"`
}
