// Package journal is a file that loses nothing that it acknowledged: numbered
// records with checksums, each on the disk before its number is told.
//
// The program test/images/journal keeps one in a Pod's volume; the suite
// appends over HTTP, remembers what was acknowledged, and Verify says whether
// the records are those. A record that was being written when the program
// died was never acknowledged: Open takes the torn end away, and only that.
package journal
