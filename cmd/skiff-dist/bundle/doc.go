// Package bundle is a directory of programs behind the end of another program:
// a zip archive, which has its index at its end and so may follow anything.
// The archive's comment is the bundle's name, with a digest of what is in it.
//
// Unpacked, a bundle is a directory of that name. It is built aside and
// published by one rename, by one process at a time, and files of it that are
// not as packed are replaced one by one: clusters may run from the directory.
package bundle
