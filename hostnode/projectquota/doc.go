// Package projectquota limits what directories hold by the project quota of
// their file system: XFS has it, and ext4 made with it. See quotactl(2), and
// Documentation/filesystems/quota.rst of the kernel.
//
// A project is a number that files have; those made in a directory of a project
// are of it, too. Its directories say of themselves, by statfs(2), that they are
// a file system of the limit's size.
//
// CAP_SYS_RESOURCE, which no container has by default, writes beyond a limit.
package projectquota
