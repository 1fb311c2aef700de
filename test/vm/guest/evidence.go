package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/skiff-k8s/skiff/test/vm/report"
)

// evidence are commands whose output may say why a check failed. The machine
// is gone after the run, and so is all that nobody has asked for.
type evidence [][]string

// ofAll belongs to every check that fails.
var ofAll = evidence{
	{"kubectl", "get", "nodes,pods,services,endpointslices,networkpolicies,persistentvolumeclaims", "-A", "-o", "wide"},
	{"kubectl", "get", "events", "-A", "--sort-by=.metadata.creationTimestamp"},
	{"kubectl", "describe", "pods"},
	{"sh", "-c", "tail -n 100 /var/lib/skiff/clusters/*/logs/*.log /var/lib/skiff/clusters/*/logs/*/*"},
	{"journalctl", "-b", "-u", "skiff.service", "--no-pager"},
	{"sh", "-c", "dmesg | tail -n 100"},
}

// ofSCTP is what the kernel and the dataplane know of SCTP: which side got
// what, and what was refused.
var ofSCTP = evidence{
	{"skiff", "trace", "service", "host", "phones:5000", "--protocol", "sctp"},
	{"skiff", "trace", "service", "caller", "phones:5000", "--protocol", "sctp"},
	{"skiff", "trace", "policy", "caller", "phones:5000", "--protocol", "sctp"},
	{"skiff", "trace", "policy", "stranger", "phones:5000", "--protocol", "sctp"},
	{"sh", "-c", sctpNumbers},
	{"skiff", "exec", "skiff-worker", "--", "sh", "-c", sctpNumbers},
	{"skiff", "exec", "skiff-control-plane", "--", "sh", "-c", sctpNumbers},
	{"kubectl", "exec", "phone", "--", "sh", "-c", sctpNumbers},
	{"kubectl", "exec", "caller", "--", "sh", "-c", sctpNumbers},
	{"skiff", "exec", "skiff-worker", "--", "bash", "-c", dataplaneNumbers},
	{"skiff", "exec", "skiff-control-plane", "--", "bash", "-c", dataplaneNumbers},
}

const (
	sctpNumbers = "for f in snmp eps assocs; do cat /proc/net/sctp/$f; done; cat /proc/net/snmp"
	// dataplaneNumbers asks where upstream's proxy has its numbers; nothing on
	// this machine but the shell speaks TCP.
	dataplaneNumbers = `exec 3<>/dev/tcp/127.0.0.1/10249; printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3; grep -a ^skiff_ <&3`
)

// testimony is how long one command may take: what it asks may be what is
// broken.
const testimony = 2 * time.Minute

// secure tells what the commands print.
func (g *guest) secure(all ...evidence) {
	for _, commands := range all {
		for _, args := range commands {
			g.tell(report.Finding{Evidence: strings.Join(args, " "), Value: printed(args)})
		}
	}
}

// printed is what a command says, also of its failure.
func printed(args []string) string {
	ctx, cancel := context.WithTimeout(context.Background(), testimony)
	defer cancel()
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		out = fmt.Appendf(out, "%v\n", err)
	}
	return string(out)
}
