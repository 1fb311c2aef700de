package dns

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coredns/caddy"
	"github.com/coredns/caddy/caddyfile"
	"github.com/coredns/coredns/core/dnsserver"
)

// both are the addresses of a dual-stack cluster's DNS.
var both = []netip.AddrPort{netip.MustParseAddrPort("172.30.0.10:53"), netip.MustParseAddrPort("[fd00::10]:53")}

func TestHosted(t *testing.T) {
	for _, c := range []struct {
		name, in, want string
		metrics        []string
	}{
		{"a new cluster's", defaultCorefile("cluster.local", []string{"192.0.2.1"}), `.:53 {
bind 172.30.0.10 fd00::10
cache 30 {
disable success cluster.local
disable denial cluster.local
}
errors
forward . 192.0.2.1 {
max_concurrent 1000
failfast_all_unhealthy_upstreams
}
skiff_kubernetes cluster.local in-addr.arpa ip6.arpa {
pods insecure
fallthrough in-addr.arpa ip6.arpa
ttl 30
}
loadbalance
skiff_prometheus
}
`, []string{"172.30.0.10:9153", "[fd00::10]:9153"}},
		{"quotes, comments, several blocks, an address of its own", `
(shared) {
    errors
    log
}
example.org:53 {
    import shared
    bind 127.0.0.1 # here only
    template IN TXT a.example.org {
        answer "{{ .Name }} 60 IN TXT \"a b # c\""
    }
    kubernetes kubernetes {
        namespaces kubernetes
        kubernetes
    }
}
. {
    forward . 192.0.2.1
    loop
    health {
        lameduck 5s
    }
    ready
}
`, `example.org:53 {
bind 127.0.0.1
errors
skiff_kubernetes kubernetes {
namespaces kubernetes
kubernetes
}
log
template IN TXT a.example.org {
answer "{{ .Name }} 60 IN TXT \"a b # c\""
}
skiff_outside
}
. {
bind 172.30.0.10 fd00::10
forward . 192.0.2.1
}
`, nil},
		{"ports that are named, and metrics of upstream's own server", `
.:53 {
    health 172.30.0.10:8080 {
        lameduck 5s
    }
    ready 172.30.0.10:8181
    prometheus
    forward . 192.0.2.1
}
example.org {
    prometheus 172.30.0.10:9253 {
        tls /etc/coredns/web.yaml
    }
    forward . 192.0.2.1
    forward a.example.org 192.0.2.2
}
`, `.:53 {
bind 172.30.0.10 fd00::10
forward . 192.0.2.1
health 172.30.0.10:8080
skiff_prometheus
ready 172.30.0.10:8181
}
example.org {
bind 172.30.0.10 fd00::10
forward . 192.0.2.1
forward a.example.org 192.0.2.2
prometheus 172.30.0.10:9253 {
tls /etc/coredns/web.yaml
}
}
`, []string{"localhost:9153"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := hosted("Corefile", c.in, both)
			if err != nil {
				t.Fatal(err)
			}
			if string(got.text) != c.want {
				t.Errorf("got\n%s\nwant\n%s", got.text, c.want)
			}
			if !slices.Equal(got.metrics, c.metrics) {
				t.Errorf("metrics on %v, want %v", got.metrics, c.metrics)
			}
			// What was written reads as it was meant.
			if _, err := caddyfile.Parse("Corefile", bytes.NewReader(got.text), nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestHostedWithoutResolvers reads kubeadm's Corefile on a host that has none.
func TestHostedWithoutResolvers(t *testing.T) {
	dir := t.TempDir()
	none, some := filepath.Join(dir, "none"), filepath.Join(dir, "some")
	if err := errors.Join(os.WriteFile(none, []byte("search a\n"), 0o644), os.WriteFile(some, []byte("nameserver 192.0.2.1\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, forward, want string }{
		{"a file without nameservers", "forward . " + none + " {\nmax_concurrent 1000\n}\n", "skiff_outside\n"},
		{"a file with one", "forward . " + some + "\n", "forward . " + some + "\n"},
		{"a file that is not there is an error of upstream's", "forward . /no/such\n", "forward . /no/such\n"},
		{"one of several", "forward . " + none + " 192.0.2.1 {\nprefer_udp\n}\n", "forward . 192.0.2.1 {\nprefer_udp\n}\n"},
		{"one of several directives", "forward a.example.org 192.0.2.2\nforward . " + none + "\n", "forward a.example.org 192.0.2.2\n"},
		{"nothing to forward to is an error of upstream's", "forward .\n", "forward .\n"},
	} {
		got, err := hosted("Corefile", ".:53 {\n"+c.forward+"}\n", both)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if want := ".:53 {\nbind 172.30.0.10 fd00::10\n" + c.want + "}\n"; string(got.text) != want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, got.text, want)
		}
	}
}

func TestHostedRefuses(t *testing.T) {
	for in, why := range map[string]string{
		"":                                   "no server block",
		"# nothing\n":                        "no server block",
		".:53 {\n errors\n":                  "",
		".:53 {\n import missing\n}\n":       "missing",
		".:53 {\n prometheus 9153\n}\n":      "prometheus",
		".:53 {\n errors\n trace\n}\n":       "plugin trace is not in this CoreDNS: its tracers",
		".:53 {\n on startup /bin/true\n}\n": "plugin on is not in this CoreDNS: it runs commands",
	} {
		got, err := hosted("Corefile", in, both)
		if err == nil {
			t.Errorf("%q: accepted as %q", in, got.text)
		} else if !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, want %q in it", in, err, why)
		}
	}
}

// TestEveryPluginOfUpstreams holds that each is there, or left out with a
// reason.
func TestEveryPluginOfUpstreams(t *testing.T) {
	registerPlugins()
	here := caddy.ListPlugins()["others"]
	elsewhere := []string{"reload", "loop"} // what they do is done otherwise
	for _, name := range dnsserver.Directives {
		_, out := leftOut[name]
		if in := slices.Contains(here, "dns."+name); in == (out || slices.Contains(elsewhere, name)) {
			t.Errorf("plugin %s: registered %t, left out %t", name, in, out)
		}
	}
	for name := range leftOut {
		if !slices.Contains(dnsserver.Directives, name) {
			t.Errorf("plugin %s is left out, and upstream has none of that name", name)
		}
	}
}

func FuzzHosted(f *testing.F) {
	f.Add(defaultCorefile("cluster.local", nil))
	f.Add(".:53 {\n template IN A . {\n answer \"a \\\" b\"\n }\n}\n")
	f.Fuzz(func(t *testing.T, in string) {
		if strings.Contains(in, "import") || strings.Contains(in, "$") || strings.Contains(in, "%") {
			return // reads files and the environment
		}
		once, err := hosted("Corefile", in, both)
		if err != nil {
			return
		}
		if _, err := hosted("Corefile", string(once.text), both); err != nil {
			t.Fatalf("%q became %q, which does not parse: %v", in, once.text, err)
		}
	})
}
