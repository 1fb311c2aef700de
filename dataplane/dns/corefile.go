package dns

import (
	"bytes"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/coredns/caddy/caddyfile"
	"github.com/miekg/dns"
)

const forwardPlugin = "forward"

// defaultCorefile is what a new cluster's ConfigMap holds: kubeadm's, with the
// given upstreams in place of the pod's /etc/resolv.conf, and none without
// any.
func defaultCorefile(domain string, upstreams []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes %[1]s in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
`, domain)
	if len(upstreams) > 0 {
		fmt.Fprintf(&b, `    forward . %s {
       max_concurrent 1000
       failfast_all_unhealthy_upstreams
    }
`, strings.Join(upstreams, " "))
	}
	fmt.Fprintf(&b, `    cache 30 {
       disable success %[1]s
       disable denial %[1]s
    }
    reload
    loadbalance
}
`, domain)
	return b.String()
}

// forwardable are the upstreams that can be asked from the control plane's
// network namespace: the host's loopback is not its own.
func forwardable(upstreams []string) []string {
	var out []string
	for _, u := range upstreams {
		host := u
		if ap, err := netip.ParseAddrPort(u); err == nil {
			host = ap.Addr().String()
		}
		if a, err := netip.ParseAddr(host); err == nil && !a.IsLoopback() && !a.IsUnspecified() {
			out = append(out, u)
		}
	}
	return out
}

// hostedCorefile is a user's Corefile as it runs in this process.
type hostedCorefile struct {
	text []byte
	// metrics are the addresses that `prometheus` names.
	metrics []string
}

// hosted turns a user's Corefile into the one that runs in this process; the
// package's doc tells what changes and why. Relative paths count from path.
func hosted(path, corefile string, listen []netip.AddrPort) (*hostedCorefile, error) {
	blocks, err := caddyfile.Parse(path, strings.NewReader(corefile), nil)
	if err != nil {
		return nil, err
	}
	if len(blocks) == 0 {
		return nil, fmt.Errorf("the Corefile has no server block")
	}
	h := &hostedCorefile{}
	var out bytes.Buffer
	for _, block := range blocks {
		for i, key := range block.Keys {
			if block.Keys[i], err = quoted(onPort(key, listen[0].Port())); err != nil {
				return nil, err
			}
		}
		fmt.Fprintf(&out, "%s {\n", strings.Join(block.Keys, " "))
		if _, ok := block.Tokens["bind"]; !ok {
			fmt.Fprintf(&out, "bind%s\n", addresses(listen))
		}
		forwards := false
		for _, name := range directives(block) {
			for _, tokens := range each(block.Tokens[name]) {
				if tokens, err = h.host(name, tokens, listen); err != nil {
					return nil, err
				}
				forwards = forwards || name == forwardPlugin && len(tokens) > 0
				if err := write(&out, tokens); err != nil {
					return nil, err
				}
			}
		}
		if !forwards {
			fmt.Fprintln(&out, outsidePlugin)
		}
		out.WriteString("}\n")
	}
	h.text = out.Bytes()
	return h, nil
}

// host is what becomes of one directive; nothing when it is left out.
func (h *hostedCorefile) host(name string, tokens []caddyfile.Token, listen []netip.AddrPort) ([]caddyfile.Token, error) {
	renamed := func(to string) []caddyfile.Token {
		tokens := slices.Clone(tokens)
		tokens[0].Text = to
		return tokens
	}
	switch name {
	case "reload", "loop":
		return nil, nil
	case "health", "ready":
		// Nobody asks the port that everybody's has; one that is named is
		// somebody's wish. What health may have in braces is how long it
		// holds up the end of the process.
		if len(tokens) < 2 || tokens[1].Text == "{" {
			return nil, nil
		}
		if name == "health" {
			return tokens[:2], nil
		}
	case forwardPlugin:
		return withUpstreams(tokens), nil
	case kubernetesPlugin:
		return renamed(hostedKubernetesPlugin), nil
	case metricsPlugin:
		if len(tokens) > 2 {
			return tokens, nil // TLS or more metrics: upstream's own server
		}
		address := defaultMetricsAddress
		if len(tokens) == 2 {
			address = tokens[1].Text
		}
		at, err := metricsAddresses(address, listen)
		if err != nil {
			return nil, err
		}
		h.metrics = append(h.metrics, at...)
		return renamed(hostedMetricsPlugin)[:1], nil
	}
	if reason, ok := leftOut[name]; ok {
		return nil, fmt.Errorf("plugin %s is not in this CoreDNS: %s", name, reason)
	}
	return tokens, nil
}

// withUpstreams leaves out files like kubeadm's /etc/resolv.conf that name no
// nameserver, and the whole directive if it has no other upstream: upstream
// would refuse the Corefile on a host without a resolver.
func withUpstreams(tokens []caddyfile.Token) []caddyfile.Token {
	var kept []caddyfile.Token
	to := 0
	for i, t := range tokens {
		argument := i >= 2 && t.Line == tokens[0].Line && t.Text != "{"
		if argument && filepath.IsAbs(t.Text) {
			if conf, err := dns.ClientConfigFromFile(t.Text); err == nil && len(conf.Servers) == 0 {
				continue
			}
		}
		if argument {
			to++
		}
		kept = append(kept, t)
	}
	if to == 0 && len(kept) < len(tokens) {
		return nil
	}
	return kept
}

func addresses(listen []netip.AddrPort) string {
	var b strings.Builder
	for _, l := range listen {
		b.WriteString(" " + l.Addr().String())
	}
	return b.String()
}

// each splits the tokens of all directives of one name into one each.
func each(tokens []caddyfile.Token) [][]caddyfile.Token {
	var all [][]caddyfile.Token
	for i := range tokens {
		if starts(tokens, i) {
			all = append(all, nil)
		}
		all[len(all)-1] = append(all[len(all)-1], tokens[i])
	}
	return all
}

// onPort moves a server block's key from the port that everybody writes to
// the one that is listened on.
func onPort(key string, port uint16) string {
	if port == 53 {
		return key
	}
	if head, ok := strings.CutSuffix(key, ":53"); ok {
		return head + ":" + strconv.Itoa(int(port))
	}
	if !strings.Contains(key, ":") {
		return key + ":" + strconv.Itoa(int(port))
	}
	return key
}

func directives(block caddyfile.ServerBlock) []string {
	names := make([]string, 0, len(block.Tokens))
	for name := range block.Tokens {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// starts says whether token i begins a directive, and not a line inside of
// one.
func starts(tokens []caddyfile.Token, i int) bool {
	depth := 0
	for _, t := range tokens[:i] {
		switch t.Text {
		case "{":
			depth++
		case "}":
			depth--
		}
	}
	return depth == 0 && (i == 0 || !sameLine(tokens[i-1], tokens[i]))
}

func sameLine(a, b caddyfile.Token) bool {
	return a.File == b.File && a.Line+strings.Count(a.Text, "\n") == b.Line
}

// write puts tokens back as text, with the lines they had.
func write(out *bytes.Buffer, tokens []caddyfile.Token) error {
	if len(tokens) == 0 {
		return nil
	}
	for i, t := range tokens {
		if i > 0 {
			if sameLine(tokens[i-1], t) {
				out.WriteByte(' ')
			} else {
				out.WriteByte('\n')
			}
		}
		word, err := quoted(t.Text)
		if err != nil {
			return err
		}
		out.WriteString(word)
	}
	out.WriteByte('\n')
	return nil
}

// quoted writes a word so that it is read back as it is. In quotes the
// Corefile's language knows one escape, the quote's own, and none for the
// backslash.
func quoted(word string) (string, error) {
	needed := word == "" || word[0] == '"' || strings.Contains(word, "#") || strings.ContainsFunc(word, unicode.IsSpace)
	if !needed {
		return word, nil
	}
	if strings.Contains(word, `\"`) || strings.HasSuffix(word, `\`) {
		return "", fmt.Errorf("a quoted word may not have a backslash before a quote: %q", word)
	}
	return `"` + strings.ReplaceAll(word, `"`, `\"`) + `"`, nil
}
