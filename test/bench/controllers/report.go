package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
)

// figure is one line of the report. Those without measure come from idle.
type figure struct {
	key, title string
	measure    func(context.Context, *measurement) (float64, error)
}

// figures are what is measured of every subject, in this order.
var figures = []figure{
	{key: "anonymous", title: "anonymous memory after idling, MB"},
	{key: "cpu", title: "CPU while idling, % of a core"},
	{key: "first", title: "start → first Pod of a waiting Deployment, s"},
	{"deployment", "Deployment of 100 → all Pods created, ms", deploymentOfHundred},
	{"replaced", "Pod deleted → its replacement, ms", podReplaced},
	{"jobs", "10 Jobs of 100 → 1,000 Pods created, s", thousandPodsOfJobs},
	{"service", "Service created → EndpointSlice, ms", serviceToSlice},
	{"ready", "Pod ready → EndpointSlice written, ms", readyToSlice},
	{"namespace", "namespace with 500 objects deleted → gone, s", namespaceOfObjects},
	{"running", "namespace with a running Pod deleted → gone, s", namespaceWithPod},
	{"relay", "an object written → another one, by a client that follows it, ms", relayed},
	{"daemon", "DaemonSet's Pod deleted → its replacement, ms", daemonReplaced},
	{"evicted", "Node tainted → Pod evicted, ms", evicted},
	{"endpoints", "Pod ready → Endpoints written, ms", readyToEndpoints},
	{"mirrored", "Endpoints written → mirrored EndpointSlice, ms", endpointsMirrored},
	{"budget", "Pod ready → PodDisruptionBudget's status, ms", readyToBudget},
	{"aggregated", "ClusterRole → rules of the one it aggregates to, ms", rolesAggregated},
	{"claim", "PersistentVolumeClaim deleted → gone, ms", claimGone},
	{"token", "token Secret → its token, ms", tokenServed},
	{"range", "Node → its Pod range, ms", nodeRange},
	{"ttl", "Node → its TTL annotation, ms", nodeTTL},
}

func markdown(names []string, results map[string][]sample) string {
	var b strings.Builder
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	fmt.Fprintf(&b, "Median (minimum–maximum), n = %d, subjects in turn. %d cores, kernel %s.\n\n| |",
		len(results[names[0]]), runtime.NumCPU(), strings.TrimSpace(string(release)))
	for _, name := range names {
		fmt.Fprintf(&b, " %s |", titles[name])
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(names)) + "\n")
	for _, f := range figures {
		fmt.Fprintf(&b, "| %s |", f.title)
		for _, name := range names {
			b.WriteString(cell(results[name], f.key))
		}
		b.WriteString("\n")
	}
	return b.String()
}

func cell(runs []sample, key string) string {
	var values []float64
	for _, r := range runs {
		if v, ok := r[key]; ok {
			values = append(values, v)
		}
	}
	if len(values) == 0 {
		return " – |"
	}
	slices.Sort(values)
	return fmt.Sprintf(" %.3g (%.3g–%.3g) |", values[len(values)/2], values[0], values[len(values)-1])
}
