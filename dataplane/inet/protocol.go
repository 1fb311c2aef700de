package inet

import "fmt"

// Protocol is an IP protocol by its number.
type Protocol uint8

// The protocols that have a name here: those of the API, and what a ping is.
const (
	ICMP   Protocol = 1
	TCP    Protocol = 6
	UDP    Protocol = 17
	ICMPv6 Protocol = 58
	SCTP   Protocol = 132
)

// String is the name as Kubernetes writes it.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// HasPorts says whether it is a protocol of the API, all of which have ports.
func (p Protocol) HasPorts() bool { return p == TCP || p == UDP || p == SCTP }

// ProtocolOf is the number of a protocol of the API, whose default is TCP.
// What is not known is 0. The package knows no API type: the CLI imports it.
func ProtocolOf[Name ~string](p Name) Protocol {
	switch p {
	case "TCP", "":
		return TCP
	case "UDP":
		return UDP
	case "SCTP":
		return SCTP
	}
	return 0
}
