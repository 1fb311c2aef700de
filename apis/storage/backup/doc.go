// Package backup saves an etcd into one file and makes data directories of
// such a file again.
//
// The file is etcd's own snapshot, as `etcdctl snapshot save` writes it and
// `etcdutl snapshot restore` reads it: the database at one revision and its
// checksum. Save asks members that run, SaveStopped reads the directories of
// those that do not, whatever way they ended, without changing them. What was
// acknowledged before is in the file, or there is none.
//
// Restore makes a directory of a new etcd: no member of the old one knows it,
// and its revisions go on far above the old ones, so that clients that saw
// what is no more start anew instead of waiting for a revision of the past.
package backup
