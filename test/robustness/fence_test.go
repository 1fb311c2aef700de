//go:build robustness

package robustness

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
)

// fence refuses what the load sends to the cluster's addresses while the
// cluster and its routes are away, after a stop or a simulated reboot: it would
// leave by the host's default route. A real reboot ends the clients, too.
func fence(ranges []netip.Prefix) (open func() error, err error) {
	table := fmt.Sprintf("table inet skiff_robustness_%d", os.Getpid())
	var rules strings.Builder
	for _, p := range ranges {
		family := "ip"
		if p.Addr().Is6() {
			family = "ip6"
		}
		fmt.Fprintf(&rules, "oifname != { \"lo\", \"skf*\" } %s daddr %s reject\n", family, p)
	}
	if err := nft(fmt.Sprintf("%s {\nchain output {\ntype filter hook output priority 0;\n%s}\n}\n", table, rules.String())); err != nil {
		return nil, err
	}
	return func() error { return nft("delete " + table) }, nil
}

// nft runs commands in the host's network namespace.
func nft(commands string) error {
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(commands)
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, output)
	}
	return nil
}
