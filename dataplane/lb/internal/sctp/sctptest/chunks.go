// Package sctptest has what tests need that make SCTP's packets by hand.
package sctptest

// Types of chunks (RFC 9260, section 3.2).
const (
	Data             = 0
	Init             = 1
	InitAck          = 2
	Abort            = 6
	CookieEcho       = 10
	CookieAck        = 11
	ShutdownComplete = 14
)
