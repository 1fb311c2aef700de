// Package progress shows the steps of a long operation, as kind does: ticks
// with the time that each step took, a spinner on a terminal, plain lines
// elsewhere, nothing when quiet. It goes to stderr; results do not.
package progress
