// Command bench measures skiff beside upstream's own programs in the same
// run, in turn, and writes results.json and results.md: medians with minimum
// and maximum, never a verdict.
//
//	bench [-n 5] [-out _output/bench] [-subjects skiff,tuned,shipped]
package main
