// Package compose is the main function of programs around one API server:
// test/apiserver, and those of benchmarks that run more in the same process.
package compose
