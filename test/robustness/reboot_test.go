//go:build robustness

package robustness

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/skiff-k8s/skiff/dataplane/fabric"
	"github.com/skiff-k8s/skiff/test/reboot"
)

// rebootHost does to a cluster what a reboot of the host does.
func rebootHost(_ context.Context, c *cluster, _ int) error {
	ranges, err := c.ranges()
	if err != nil {
		return err
	}
	return reboot.Host(c.name, ranges)
}

// cutting lays a machine's cable still, in both directions, or lets it work
// again.
func cutting(cut bool) func(context.Context, *cluster, int) error {
	return func(ctx context.Context, c *cluster, target int) error {
		machine := anywhere(c, target)
		return c.firewall(ctx, machine, cut, fmt.Sprintf("iifname %q drop", fabric.NodeUplink), fmt.Sprintf("oifname %q drop", fabric.NodeUplink))
	}
}

// parting cuts a control plane off from the others, and from nobody else.
func parting(cut bool) func(context.Context, *cluster, int) error {
	return func(ctx context.Context, c *cluster, target int) error {
		machine := onControlPlane(c, target)
		var others []string
		for _, other := range c.controlPlanes() {
			if other != machine {
				others = append(others, c.addresses[other])
			}
		}
		list := "{ " + strings.Join(others, ", ") + " }"
		return c.firewall(ctx, machine, cut, "ip saddr "+list+" drop", "ip daddr "+list+" drop")
	}
}

// firewall drops packets in a machine's network namespace. The table goes
// with the namespace, if the machine dies.
func (c *cluster) firewall(ctx context.Context, machine string, cut bool, in, out string) error {
	const table = "table inet robustness"
	rules := table + "\ndelete " + table + "\n"
	if cut {
		rules += fmt.Sprintf(`%s {
	chain in { type filter hook prerouting priority -300; %s; }
	chain out { type filter hook postrouting priority 300; %s; }
}
`, table, in, out)
	}
	cmd := exec.CommandContext(ctx, "nsenter", "--net="+filepath.Join(runDir, c.name, "netns", machine), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("firewall of %s: %w: %s", machine, err, output)
	}
	return nil
}
