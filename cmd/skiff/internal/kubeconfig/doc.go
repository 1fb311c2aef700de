// Package kubeconfig puts a cluster's context into the user's kubeconfig and
// takes it out again, choosing the file as kubectl does and holding the lock
// that client-go's tools hold.
//
// It edits the file's YAML nodes: entries of others, their order and their
// comments stay. It does without client-go, whose start-up is longer than most
// of skiff's commands.
package kubeconfig
