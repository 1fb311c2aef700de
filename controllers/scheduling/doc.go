// Package scheduling runs upstream's scheduler with its default profile inside
// the control plane's process, over the API server's in-process loopback.
//
// It decides where Pods go and nothing else; what it schedules, how it scores
// and which events it writes are upstream's.
package scheduling
