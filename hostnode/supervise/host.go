package supervise

import (
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/skiff-k8s/skiff/dataplane/fabric"
	"github.com/skiff-k8s/skiff/hostnode/hostdns"
	"github.com/skiff-k8s/skiff/hostnode/namespaces"
)

// sharedDirs of the host are seen by machines, read-only: programs, libraries
// and what those read.
var sharedDirs = []string{
	"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32",
	"/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/etc/alternatives",
}

// readHost looks at the machine that we run on.
func readHost(p Paths) (host, error) {
	layout, err := namespaces.Layout()
	if err != nil {
		return host{}, err
	}
	h := host{paths: p, layout: layout, tasks: readTasks()}
	for _, dir := range sharedDirs {
		// Links of a merged /usr are made again in the machine.
		if info, err := os.Lstat(dir); err == nil && info.IsDir() {
			h.dirs = append(h.dirs, dir)
		}
	}
	h.resolvers = readResolvers(p.hostDNSFiles().ResolvConf(), "/run/systemd/resolve/resolv.conf")
	return h, nil
}

// readTasks is the most processes and threads that the kernel has, 0 if it
// does not say.
func readTasks() int {
	least := 0
	for _, file := range []string{"/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"} {
		data, err := os.ReadFile(file)
		if err != nil {
			return 0
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(data)))
		if err != nil || n <= 0 {
			return 0
		}
		if least == 0 || n < least {
			least = n
		}
	}
	return least
}

// readResolvers returns the nameservers of the first file that has any which
// can be reached from another network namespace: not those on loopback.
func readResolvers(files ...string) []string {
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if found := parseResolvers(string(hostdns.Without(data))); len(found) > 0 {
			return found
		}
	}
	return nil
}

func parseResolvers(conf string) []string {
	var found []string
	for line := range strings.Lines(conf) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		addr, err := netip.ParseAddr(fields[1])
		if err != nil || addr.IsLoopback() || addr.IsUnspecified() || slices.Contains(found, addr.String()) {
			continue
		}
		found = append(found, addr.String())
	}
	return found
}

// reachable are the resolvers of the cluster's families. One with a zone is on
// a link of the host's.
func reachable(resolvers []string, families []fabric.Family) []string {
	var found []string
	for _, r := range resolvers {
		addr, err := netip.ParseAddr(r)
		if err != nil || addr.Zone() != "" || addr.IsLinkLocalUnicast() {
			continue
		}
		if slices.Contains(families, fabric.FamilyOf(addr)) {
			found = append(found, r)
		}
	}
	return found
}

// machineID is 128 bits that are the machine's own and stay the same for the
// life of the cluster.
func machineID(clusterID, machine string) string {
	sum := sha256.Sum256([]byte(clusterID + "/" + machine))
	return hex.EncodeToString(sum[:16])
}

func joinPort(address string, port int32) string {
	return net.JoinHostPort(address, strconv.Itoa(int(port)))
}

func sorted(list []string) []string {
	slices.Sort(list)
	return list
}
