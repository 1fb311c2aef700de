// Package inet holds what the parts of the dataplane say of IP alike.
package inet
