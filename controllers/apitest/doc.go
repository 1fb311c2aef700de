// Package apitest gives tests of controllers a real API server: the one of
// test/apiserver, a process of its own on loopback, so that test programs do
// not link it. Run adds the controllers, in the test program itself.
//
// A test program calls Main from its TestMain and Server or Run from its
// tests. It leaves no process behind, and of files only the built program in
// _output/test.
package apitest
