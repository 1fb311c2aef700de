// Package hostcheck asks the host, before anything is made, for what every
// cluster needs: privileges, kernel features, inotify instances. It does the
// real thing in a way that leaves nothing behind, and never compares versions.
package hostcheck
