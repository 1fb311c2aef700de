// Package apiservertest starts test/apiserver for tests: a real API server on
// loopback in about half a second, without linking one into the test.
//
//	srv := apiservertest.Start(t, "-scheduler")
//	client := kubernetes.NewForConfigOrDie(srv.Config())
//
// A TestMain has no test to start it for: it calls Open and Close.
//
// The program is built once, into _output/test, under a lock, so that several
// test packages can run at once. The test's end stops it and removes its
// files.
package apiservertest
