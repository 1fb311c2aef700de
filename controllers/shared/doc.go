// Package shared makes the controller-runtime manager and the informers that
// all controllers of a cluster share, upstream's and ours, and holds what
// several of ours set up alike. It starts nothing.
package shared
