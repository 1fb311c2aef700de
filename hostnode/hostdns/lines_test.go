package hostdns

import (
	"net/netip"
	"strings"
	"testing"
)

var server = netip.MustParseAddr("10.96.0.10")

const usual = "# the host's\nsearch example.com\nnameserver 198.51.100.1\nnameserver 198.51.100.2\noptions edns0\n"

func TestLinesComeAndGo(t *testing.T) {
	for name, conf := range map[string]string{
		"a usual file":                usual,
		"an empty file":               "",
		"no newline at the end":       "nameserver 198.51.100.1",
		"lines of DOS":                "nameserver 198.51.100.1\r\nsearch a\r\n",
		"another cluster's":           string(with([]byte(usual), "dev2", server, false)),
		"words that look like ours":   "# skiff: begin\n# skiff: cut\nnameserver 198.51.100.1\n",
		"a comment about cutting":     "nameserver 198.51.100.1 # skiff: cut here not\n",
		"an empty line and a blank":   "\n \nnameserver 198.51.100.1",
		"bytes that are no UTF-8":     "# \xff\xfe\nnameserver 198.51.100.1\n",
		"nameservers of two families": "nameserver 2001:db8::1\nnameserver 198.51.100.1\n",
	} {
		t.Run(name, func(t *testing.T) {
			there := with([]byte(conf), "dev", server, false)
			if first := nameservers(there)[0]; first != "10.96.0.10" {
				t.Errorf("the first nameserver is %s", first)
			}
			if again := with(without(there, "dev"), "dev", server, false); string(again) != string(there) {
				t.Errorf("the second time\n%s\nthe first\n%s", again, there)
			}
			if back := without(there, "dev"); string(back) != conf {
				t.Errorf("came back as %q, was %q", back, conf)
			}
			if other := without(there, "de"); string(other) != string(there) {
				t.Errorf("cluster \"de\" took %q", other)
			}
		})
	}
}

func TestLinesOthersHaveEdited(t *testing.T) {
	there := string(with([]byte(usual), "dev", server, false))
	lines := strings.SplitAfter(there, "\n")
	for _, c := range []struct{ name, conf, want string }{
		{"something above and below", "# top\n" + there + "# bottom\n", "# top\n" + usual + "# bottom\n"},
		{"something between the marks", lines[0] + "options ndots:2\n" + strings.Join(lines[1:], ""), "options ndots:2\n" + usual},
		{"no end mark", lines[0] + lines[1] + usual, usual},
		{"no nameserver", lines[0] + lines[2] + usual, usual},
		{"twice", there + there, usual + usual},
		{"all new", "nameserver 198.51.100.9\n", "nameserver 198.51.100.9\n"},
	} {
		if got := without([]byte(c.conf), "dev"); string(got) != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, got, c.want)
		}
	}
}

func FuzzLines(f *testing.F) {
	f.Add(usual, "dev")
	f.Fuzz(func(t *testing.T, conf, cluster string) {
		if strings.Contains(conf, "# skiff: ") || cluster == "" || strings.ContainsAny(cluster, "\n\"\\") || strings.ToValidUTF8(cluster, "") != cluster {
			return // ours, or no cluster's name
		}
		if back := without(with([]byte(conf), cluster, server, false), cluster); string(back) != conf {
			t.Errorf("came back as %q, was %q", back, conf)
		}
		// Every state that overwrite may leave.
		whole := with([]byte(conf), cluster, server, false)
		cutting := append([]byte(conf), padding([]byte(conf), len(whole)-len(conf))...)
		if len(cutting) != len(whole) {
			t.Errorf("padded to %d, want %d", len(cutting), len(whole))
		}
		if back := without(cutting, cluster); string(back) != conf {
			t.Errorf("cut to %q, was %q", back, conf)
		}
	})
}

func TestDecide(t *testing.T) {
	forwarding := Config{Files: Files{Bus: "/run/bus"}, Cluster: "dev", Domain: "cluster.local", Upstreams: []string{"198.51.100.1"}, Forwards: true}
	deaf := forwarding
	deaf.Forwards = false
	nobody := forwarding
	nobody.Upstreams = nil
	stub := "nameserver 127.0.0.53\noptions edns0 trust-ad\n"
	for _, c := range []struct {
		name       string
		facts      facts
		cfg        Config
		want       way
		error, run string
	}{
		{name: "a plain file", facts: facts{conf: []byte(usual)}, cfg: forwarding, want: plain},
		{name: "no file", facts: facts{missing: true}, cfg: deaf, want: plain},
		{name: "a file without nameservers needs nobody", facts: facts{conf: []byte("search a\n")}, cfg: nobody, want: plain},
		{name: "our own lines", facts: facts{conf: with([]byte(usual), "dev", server, false)}, cfg: forwarding, want: plain},
		{name: "resolved's stub", facts: facts{conf: []byte(stub), target: "/run/systemd/resolve/stub-resolv.conf", answers: true}, cfg: deaf, want: resolved},
		{name: "resolved's stub in a plain file", facts: facts{conf: []byte(stub), answers: true}, cfg: deaf, want: resolved},
		{name: "resolved by nsswitch", facts: facts{conf: []byte(usual), nss: true, answers: true}, cfg: deaf, want: resolved},
		{name: "resolved runs, and nobody asks it", facts: facts{conf: []byte(usual), answers: true}, cfg: forwarding, want: plain},
		{name: "resolved does not run", facts: facts{conf: []byte(stub), target: "/run/systemd/resolve/stub-resolv.conf"}, cfg: forwarding, error: "does not answer on /run/bus", run: "systemctl start dbus systemd-resolved"},
		{name: "resolved's list of servers", facts: facts{conf: []byte(usual), target: "/run/systemd/resolve/resolv.conf", answers: true}, cfg: forwarding, error: "systemd-resolved writes", run: "ln -sf /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf"},
		{name: "NetworkManager's link", facts: facts{conf: []byte(usual), target: "/run/NetworkManager/resolv.conf"}, cfg: forwarding, error: "NetworkManager writes", run: "systemctl reload NetworkManager"},
		{name: "NetworkManager's file", facts: facts{conf: []byte("# Generated by NetworkManager\n" + usual)}, cfg: forwarding, error: "written by NetworkManager", run: "systemctl reload NetworkManager"},
		{name: "somebody's link", facts: facts{conf: []byte(usual), target: "/srv/resolv.conf"}, cfg: forwarding, error: "another program writes", run: "cp --remove-destination /srv/resolv.conf /etc/resolv.conf"},
		{name: "another cluster", facts: facts{conf: with([]byte(usual), "prod", server, false)}, cfg: forwarding, error: `cluster "prod"`, run: "skiff delete cluster --name prod"},
		{name: "a resolver on loopback", facts: facts{conf: []byte("nameserver 127.0.0.1\nnameserver 198.51.100.1\n")}, cfg: forwarding, error: "nameserver 127.0.0.1", run: "server=/cluster.local/"},
		{name: "a resolver on an address of the host", facts: facts{conf: []byte(usual), own: []netip.Addr{netip.MustParseAddr("198.51.100.2")}}, cfg: forwarding, error: "nameserver 198.51.100.2", run: "dnsmasq"},
		{name: "nameservers by turns", facts: facts{conf: []byte(usual + "options timeout:1 rotate\n")}, cfg: forwarding, error: "rotate", run: "rotate"},
		{name: "nameservers that the cluster cannot ask", facts: facts{conf: []byte("nameserver 2001:db8::1\n")}, cfg: nobody, error: "2001:db8::1", run: "IPv4"},
		{name: "no forwarding", facts: facts{conf: []byte(usual)}, cfg: deaf, error: "does not forward packets", run: "sysctl -w net.ipv4.ip_forward=1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := decide(c.facts, c.cfg)
			if c.error == "" {
				if err != nil || got != c.want {
					t.Errorf("got %v, %v; want %v", got, err, c.want)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.error) {
				t.Fatalf("got %v, %v; want an error with %q", got, err, c.error)
			}
			if mend := err.(*Error).Mend(); !strings.Contains(mend, c.run) {
				t.Errorf("mend %q, want %q in it", mend, c.run)
			}
		})
	}
}

func TestAsksResolved(t *testing.T) {
	for conf, want := range map[string]bool{
		"passwd: files\nhosts: files dns\n":                                false,
		"hosts: mymachines resolve [!UNAVAIL=return] files myhostname dns": true,
		"hosts: files\nnetworks: resolve\n":                                false,
		"# hosts: resolve\n":                                               false,
		"":                                                                 false,
	} {
		if got := asksResolved([]byte(conf)); got != want {
			t.Errorf("%q: %t", conf, got)
		}
	}
}
