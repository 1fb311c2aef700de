// Package needs says, in the Event of a volume that was not mounted, what the
// host lacks for it and how to mend that.
//
// Nodes run the host's kernel and the programs of its /usr. Upstream's errors
// are those of mount(8) and of the kernel: true, but they name neither. Nothing
// is looked up, or said, before something failed.
package needs
