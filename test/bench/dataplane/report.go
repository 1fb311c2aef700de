package main

import (
	"fmt"
	"slices"
	"strings"
)

// markdown is the report. Its tables are read by people.
func markdown(r *Results) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Client and server in pods on two nodes, one core for both ends of connections, a core each for streams; "+
		"%s, kernel %s. Ratios to direct in the same round: median (minimum–maximum of %d rounds).\n\n",
		r.Machine, r.Kernel, rounds(r))
	pathTable(&b, r)
	b.WriteString("\n")
	agentTable(&b, r)
	return b.String()
}

var order = []string{"direct", "skiff", "nftables", "iptables"}

var titles = map[string]string{"direct": "direct", "skiff": "skiff", "nftables": "kube-proxy nftables", "iptables": "kube-proxy iptables"}

func rounds(r *Results) int {
	for _, s := range r.Sizes {
		for _, p := range s.Paths["1"] {
			return len(p.Connect.Medians)
		}
	}
	return 0
}

func pathTable(b *strings.Builder, r *Results) {
	b.WriteString("| services, endpoints | | connection p50 / p99, µs | ratio of p50 | round trip p50 / p99, µs | ratio of p50 | connections/s on a core | stream, Gbit/s |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|\n")
	for _, s := range r.Sizes {
		for _, endpoints := range []string{"1", "100"} {
			direct := s.Paths[endpoints]["direct"]
			for _, name := range order {
				p := s.Paths[endpoints][name]
				fmt.Fprintf(b, "| %s, %s | %s | %.1f / %.1f | %s | %.2f / %.2f | %s | %s | %s |\n",
					thousands(s.Services), endpoints, titles[name],
					p.Connect.Median, p.Connect.P99, ratio(p.Connect, direct.Connect, name),
					p.Exchange.Median, p.Exchange.P99, ratio(p.Exchange, direct.Exchange, name),
					thousands(int(middle(p.Connect.Rates))), spread(p.StreamGbits, "%.1f"))
			}
		}
	}
}

func ratio(a, direct Times, name string) string {
	if name == "direct" {
		return fmt.Sprintf("n = %s", thousands(a.N))
	}
	return spread(ratios(a.Medians, direct.Medians), "%.2f")
}

func agentTable(b *strings.Builder, r *Results) {
	b.WriteString("| services | | start → all answer, s | CPU for it, s | lists read → maps full, ms | memory, MB: PSS, of it anonymous; maps | API write → first connection on every node p50 / p99, ms | of it the API write | the same two after a quiet second | watch event → map p50 / p99, ms |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|---|\n")
	for _, s := range r.Sizes {
		for _, name := range order[1:] {
			a := s.Agents[name]
			maps := ""
			if len(a.MapsMB) > 0 {
				maps = fmt.Sprintf("; %.1f", middle(a.MapsMB))
			}
			fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %.1f, %.1f%s | %s | %s | %s, %s | %s |\n", thousands(s.Services), titles[name],
				spread(a.LoadSeconds, "%.2f"), spread(a.LoadCPUSeconds, "%.2f"), spread(a.FillMillis, "%.0f"),
				middle(a.PSSMB), middle(a.AnonymousMB), maps,
				tail(a.Series.EveryNodeMillis, 1), tail(a.Series.WriteMillis, 1), tail(a.Alone.EveryNodeMillis, 1), tail(a.Alone.WriteMillis, 1), tail(a.ChangeMicros, 1000))
		}
	}
}

// tail is median and 99th percentile, in units of scale.
func tail(values []float64, scale float64) string {
	if len(values) == 0 {
		return "–"
	}
	sorted := slices.Sorted(slices.Values(values))
	return fmt.Sprintf("%.3g / %.3g (n = %d)", quantile(sorted, 0.5)/scale, quantile(sorted, 0.99)/scale, len(sorted))
}

// spread is median (minimum–maximum).
func spread(values []float64, format string) string {
	if len(values) == 0 {
		return "–"
	}
	f := func(v float64) string { return fmt.Sprintf(format, v) }
	return fmt.Sprintf("%s (%s–%s)", f(middle(values)), f(slices.Min(values)), f(slices.Max(values)))
}

func middle(values []float64) float64 {
	return quantile(slices.Sorted(slices.Values(values)), 0.5)
}

// thousands writes 12345 as 12,345.
func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
