package dns

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/coredns/caddy/caddyfile"
)

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

// hosted turns a user's Corefile into the one that runs in this process; the
// package's doc tells what changes and why.
func hosted(corefile string, listen netip.AddrPort) ([]byte, error) {
	blocks, err := caddyfile.Parse("Corefile", strings.NewReader(corefile), nil)
	if err != nil {
		return nil, err
	}
	if len(blocks) == 0 {
		return nil, fmt.Errorf("the Corefile has no server block")
	}
	var out bytes.Buffer
	for _, block := range blocks {
		for i, key := range block.Keys {
			if block.Keys[i], err = quoted(onPort(key, listen.Port())); err != nil {
				return nil, err
			}
		}
		fmt.Fprintf(&out, "%s {\n", strings.Join(block.Keys, " "))
		if _, ok := block.Tokens["bind"]; !ok {
			fmt.Fprintf(&out, "bind %s\n", listen.Addr())
		}
		for _, name := range directives(block) {
			switch name {
			case "health", "ready", "reload", "loop":
				continue
			case kubernetesPlugin:
				renamed := slices.Clone(block.Tokens[name])
				for i := range renamed {
					if starts(renamed, i) && renamed[i].Text == kubernetesPlugin {
						renamed[i].Text = hostedKubernetesPlugin
					}
				}
				err = write(&out, renamed)
			default:
				err = write(&out, block.Tokens[name])
			}
			if err != nil {
				return nil, err
			}
		}
		if _, ok := block.Tokens["forward"]; !ok {
			fmt.Fprintln(&out, outsidePlugin)
		}
		out.WriteString("}\n")
	}
	return out.Bytes(), nil
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
