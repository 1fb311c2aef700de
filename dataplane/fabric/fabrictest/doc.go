// Package fabrictest gives tests real namespaces to lay cables in: a scratch
// host with an uplink to a scratch outside world, dials and listeners inside
// a namespace, a watch on an uplink, and the stock-taking that a TestMain
// needs to find what tests left behind.
package fabrictest
