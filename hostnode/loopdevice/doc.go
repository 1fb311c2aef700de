// Package loopdevice makes block devices of files. Loop devices belong to the
// host: what is attached in one machine is seen in all. A device is found by
// its file's inode, since the path is another one in every mount namespace, and
// by the mark that it bears once somebody has removed the file.
package loopdevice
