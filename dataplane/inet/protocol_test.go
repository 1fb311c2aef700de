package inet

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestProtocolsOfTheAPI(t *testing.T) {
	for name, want := range map[corev1.Protocol]Protocol{
		corev1.ProtocolTCP: TCP, corev1.ProtocolUDP: UDP, corev1.ProtocolSCTP: SCTP, "": TCP, "DCCP": 0,
	} {
		got := ProtocolOf(name)
		if got != want || got.HasPorts() != (want != 0) {
			t.Errorf("%q: got %s", name, got)
		}
		if name != "" && want != 0 && got.String() != string(name) {
			t.Errorf("%q is written %s", name, got)
		}
	}
}
