// Package snapshot keeps snapshots of control planes on the host and makes
// one file of a snapshot and a snapshot of such a file.
//
// A snapshot is a directory of a Store: its manifest, snapshot.json, and the
// files that the manifest lists with their checksums. It is built as a Draft
// beside the others and published by one rename; what a process that died
// left half-made is swept away by the next one that looks. It holds keys, so
// nobody but root may read it.
//
// What the files mean is package supervise's business.
package snapshot
