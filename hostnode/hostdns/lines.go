package hostdns

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
)

// The lines that are ours. What follows the name in the first one is for
// people, but for newFile.
const (
	beginMark = "# skiff: begin cluster "
	endMark   = "# skiff: end cluster "
	newFile   = ", there was no file before"
	// cutMark starts what is cut off next, see overwrite.
	cutMark    = "# skiff: cut here "
	cutMarkToo = "# skiff: cut before the newline "
)

// with puts the cluster's lines on top of conf.
func with(conf []byte, cluster string, server netip.Addr, missing bool) []byte {
	note := ""
	if missing {
		note = newFile
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s%q%s (skiff delete cluster --name %s takes these lines away)\n", beginMark, cluster, note, cluster)
	fmt.Fprintf(&b, "nameserver %s\n", server)
	fmt.Fprintf(&b, "%s%q\n", endMark, cluster)
	b.Write(conf)
	return b.Bytes()
}

// without takes the lines of the cluster out of conf; those of every cluster
// if it is empty. What others put between the marks stays.
func without(conf []byte, cluster string) []byte {
	conf = cut(conf)
	var rest bytes.Buffer
	inside, server := false, false
	for line := range bytes.Lines(conf) {
		switch {
		case marks(line, beginMark, cluster):
			inside, server = true, true
		case marks(line, endMark, cluster):
			inside = false
		case inside && server && len(nameservers(line)) > 0:
			server = false // one, even if the end mark is lost
		default:
			rest.Write(line)
		}
	}
	return rest.Bytes()
}

// Without is resolv.conf as it is without skiff.
func Without(conf []byte) []byte { return without(conf, "") }

// cut finishes what overwrite did not.
func cut(conf []byte) []byte {
	if at := bytes.LastIndex(conf, []byte("\n"+cutMarkToo)); at >= 0 {
		return conf[:at]
	}
	if at := bytes.LastIndex(conf, []byte(cutMark)); at == 0 || at > 0 && conf[at-1] == '\n' {
		return conf[:at]
	}
	return conf
}

// marks says whether line is a mark of the cluster, or of any.
func marks(line []byte, mark, cluster string) bool {
	name, ok := strings.CutPrefix(string(line), mark)
	return ok && (cluster == "" || strings.HasPrefix(name, fmt.Sprintf("%q", cluster)))
}

// owner is the first cluster that has lines in conf.
func owner(conf []byte) string {
	for line := range bytes.Lines(conf) {
		if rest, ok := strings.CutPrefix(string(line), beginMark+`"`); ok {
			name, _, _ := strings.Cut(rest, `"`)
			return name
		}
	}
	return ""
}

// made says that there was no file before the cluster's lines.
func made(conf []byte, cluster string) bool {
	return bytes.Contains(conf, fmt.Appendf(nil, "%s%q%s", beginMark, cluster, newFile))
}

// nameservers of a resolv.conf, as they are written.
func nameservers(conf []byte) []string {
	var found []string
	for line := range strings.Lines(string(conf)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			found = append(found, f[1])
		}
	}
	return found
}

// rotates says that the host asks its nameservers by turns.
func rotates(conf []byte) bool {
	for line := range strings.Lines(string(conf)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "options" {
			for _, option := range f[1:] {
				if option == "rotate" {
					return true
				}
			}
		}
	}
	return false
}
