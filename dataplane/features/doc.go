// Package features asks the kernel whether it can do what the dataplane needs:
// by loading the smallest program that needs it, never by the kernel's
// version, as distributions port features back. What is missing is an error
// that names the feature, the first version that has it, and what follows.
//
// A probe takes a tenth of a millisecond. The supervisor asks when a cluster
// is made or started, before anything is there.
package features
