// Package upstream holds no code: its test writes and checks the list of
// feature gates and API groups that the config file may name. It is a package
// of its own so that the tests of v1alpha1 need not link upstream's code.
package upstream
