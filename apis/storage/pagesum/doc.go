// Package pagesum keeps checksums of the pages of etcd's database in a file
// beside it, so that a bit that flips on the disk is noticed. The log has
// checksums of its own; the database, bbolt, has them for its two heads only.
//
// Attach makes the file of a database that runs and has each commit's pages
// added to it, before the head that makes them count. Verify compares a
// database that does not run. It knows nothing of what is in the pages.
//
// bbolt writes a page that is in use never again: a commit writes free pages,
// and then a head that leads to them. So the database is, whatever it dies of,
// as one commit left it, and the file says what each page was then. It is of
// no use, and no harm, for any other database: one that was copied, compacted
// or received from another member has another file, and one that somebody
// wrote to without adding the checksums has a commit that is not in here.
//
// The file has a head and then records, of 32-bit words and 64-bit ones in
// little-endian order, each record with its own checksum. The first one has
// all pages.
//
//	head   = magic, identity of the database's file, checksum
//	record = length, checksum, commit, checksum of the commit's head, pages
//	pages  = {number, checksum}
package pagesum
