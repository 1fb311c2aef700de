// Package ready waits until a new cluster, whose API server answers, can be
// used: every node takes Pods, and the objects exist without which a first
// `kubectl apply` or `kubectl run` would be refused or start late.
//
// It speaks to the API server by net/http with the admin's certificate:
// client-go's start-up alone would be longer than most of skiff's commands.
package ready
