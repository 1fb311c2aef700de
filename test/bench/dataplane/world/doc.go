// Package world is what the dataplane benchmark's API server holds: Nodes,
// and Services with EndpointSlices that nobody but the benchmark writes. The
// API server is skiff's own (test/apiserver), on the arena's switch.
package world
