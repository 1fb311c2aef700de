package dns

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/coredns/caddy/caddyfile"
)

func TestHosted(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"a new cluster's", defaultCorefile("cluster.local", []string{"192.0.2.1"}), `.:53 {
bind 172.30.0.10
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
prometheus :9153
}
`},
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
    health :8080
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
bind 172.30.0.10
forward . 192.0.2.1
}
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := hosted(c.in, netip.MustParseAddrPort("172.30.0.10:53"))
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
			// What was written reads as it was meant.
			if _, err := caddyfile.Parse("Corefile", strings.NewReader(string(got)), nil); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestHostedRefuses(t *testing.T) {
	for _, in := range []string{"", "# nothing\n", ".:53 {\n errors\n", ".:53 {\n import missing\n}\n"} {
		if got, err := hosted(in, netip.MustParseAddrPort("172.30.0.10:53")); err == nil {
			t.Errorf("%q: accepted as %q", in, got)
		}
	}
}

func FuzzHosted(f *testing.F) {
	f.Add(defaultCorefile("cluster.local", nil))
	f.Add(".:53 {\n template IN A . {\n answer \"a \\\" b\"\n }\n}\n")
	f.Fuzz(func(t *testing.T, in string) {
		listen := netip.MustParseAddrPort("172.30.0.10:53")
		if strings.Contains(in, "import") || strings.Contains(in, "$") || strings.Contains(in, "%") {
			return // reads files and the environment
		}
		once, err := hosted(in, listen)
		if err != nil {
			return
		}
		again, err := hosted(string(once), listen)
		if err != nil {
			t.Fatalf("%q became %q, which does not parse: %v", in, once, err)
		}
		_ = again
	})
}
