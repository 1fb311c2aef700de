// Package settle makes a process cheap to keep once it has started: there is
// one of each per node of every cluster, and most of them wait most of the
// time. It changes nothing of what the process does.
package settle
