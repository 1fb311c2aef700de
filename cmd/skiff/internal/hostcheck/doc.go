// Package hostcheck asks the host, before anything is made, for privileges,
// cables and inotify instances. It does the real thing in a way that leaves
// nothing behind, and never compares versions. File systems and files are
// checked by hostnode/supervise, where they are used.
package hostcheck
