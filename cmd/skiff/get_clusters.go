package main

import (
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skiff-k8s/skiff/hostnode/supervise"
)

func (a *app) getClustersCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "clusters",
		Aliases: []string{"cluster"},
		Short:   "List the clusters of this host",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := supervise.List(cmd.Context())
			if err != nil {
				return err
			}
			if len(list) == 0 {
				a.say("No skiff clusters found.")
			}
			rows := make([]clusterRow, 0, len(list))
			for _, info := range list {
				rows = append(rows, clusterRow{info})
				if info.Trouble != "" {
					a.say("Cluster %q: %s\n  Mend: %s", info.Name, info.Trouble, strings.ReplaceAll(info.Mend, "\n", "\n  "))
				}
				a.sayNodes(&info, time.Time{})
			}
			return printRows(a, output, clusterHeader, rows)
		},
	}
	a.outputFlag(cmd, &output)
	return cmd
}

// sayNodes names the nodes whose processes keep ending or whose kubelet does not
// start, and the etcd members that were damaged, and made anew since then.
func (a *app) sayNodes(info *supervise.Info, since time.Time) {
	for _, m := range info.Machines {
		for _, c := range m.CrashLoops {
			a.say("Node %q: %v\n  Log: %s", m.Name, c, c.Log)
		}
		if m.Kubelet != nil {
			a.say("Node %q: %s\n  Mend: %s", m.Name, m.Kubelet.Trouble, strings.ReplaceAll(m.Kubelet.Mend, "\n", "\n  "))
		}
		if m.SetAside != nil && m.SetAside.Since.After(since) {
			a.say("Node %q: %s\n  It was made anew from the other control planes, %s ago. What it had is in %[4]s: rm -r %[4]s when that is of no use",
				m.Name, m.SetAside.Cause, age(m.SetAside.Since, a.now()), m.SetAside.Dir)
		}
	}
}
