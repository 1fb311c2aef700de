// Package e2e tests skiff from outside, as a user has it: the built programs,
// real clusters, stock kubectl. `make e2e` builds what it needs and runs it.
package e2e
