// Package apitest gives tests of controllers a real API server: upstream's
// kube-apiserver and etcd, built from the modules that skiff pins and run as
// processes of their own on loopback, so that test programs link neither.
//
// A test program calls Main from its TestMain and Server from its tests. It
// leaves no process and no file behind but the two programs in
// _output/controllers.
package apitest
