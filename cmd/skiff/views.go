package main

import (
	"fmt"
	"net"
	"strconv"
	"time"

	v1alpha1 "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/supervise"
)

// clusterRow is a cluster in `skiff get clusters`.
type clusterRow struct{ supervise.Info }

func (c clusterRow) name() string { return c.Name }

var clusterHeader = []string{"NAME", "STATE", "NODES", "CONTROL PLANES", "AGE", "API SERVER", "PODS", "SERVICES", "RESTART", "A POWER CUT"}

func (c clusterRow) cells(now time.Time) []string {
	return []string{c.Name, string(c.State), strconv.Itoa(len(c.Machines)), c.controlPlanes(), age(c.Created, now), orDash(c.Endpoint), orDash(c.PodSubnet), orDash(c.ServiceSubnet), orDash(string(c.Restart)), orDash(c.PowerCut)}
}

// controlPlanes is how many there are, and before it how many of several
// serve: "2/3".
func (c clusterRow) controlPlanes() string {
	all, serving := 0, 0
	for _, m := range c.Machines {
		if m.Role == v1alpha1.ControlPlaneRole {
			all++
		}
		if m.APIServer == "serving" {
			serving++
		}
	}
	if all < 2 {
		return strconv.Itoa(all)
	}
	return fmt.Sprintf("%d/%d", serving, all)
}

// nodeRow is a node in `skiff get nodes`: the machine, and what of its config
// tells how to use it.
type nodeRow struct {
	Cluster string `json:"cluster"`
	supervise.MachineInfo
	Resources         v1alpha1.Resources     `json:"resources"`
	ExtraPortMappings []v1alpha1.PortMapping `json:"extraPortMappings,omitempty"`
}

// nodeRows are the nodes of a cluster in the order of its config.
func nodeRows(info *supervise.Info) []nodeRow {
	rows := make([]nodeRow, 0, len(info.Machines))
	for i, m := range info.Machines {
		row := nodeRow{Cluster: info.Name, MachineInfo: m}
		if c := info.Cluster; c != nil && i < len(c.Nodes) {
			row.Resources, row.ExtraPortMappings = c.Nodes[i].Resources, c.Nodes[i].ExtraPortMappings
		}
		rows = append(rows, row)
	}
	return rows
}

func (n nodeRow) name() string { return n.Name }

var nodeHeader = []string{"NAME", "CLUSTER", "ROLE", "STATE", "IP", "PODS", "PID", "UP", "HOST PORTS"}

func (n nodeRow) cells(now time.Time) []string {
	state, pid := "down", "-"
	if len(n.CrashLoops) > 0 {
		state = n.crashLoop()
	}
	if n.Running {
		state, pid = "running", strconv.Itoa(n.PID)
		if n.Paused {
			state = "paused"
		} else if n.Trouble != "" {
			state = "etcd in trouble"
		} else if len(n.CrashLoops) > 0 {
			state = n.crashLoop()
		} else if n.Kubelet != nil {
			state = "kubelet does not start"
		} else if n.APIServer != "" && n.APIServer != "serving" {
			state = "API server " + n.APIServer
		}
	}
	return []string{n.Name, n.Cluster, string(n.Role), state, machine.Join(n.IPs), machine.Join(n.PodCIDRs), pid, age(n.Started, now), orDash(n.hostPorts())}
}

// crashLoop is "crash loop (7)", by how often what ended most has ended.
func (n nodeRow) crashLoop() string {
	most := 0
	for _, c := range n.CrashLoops {
		most = max(most, c.Ended)
	}
	return fmt.Sprintf("crash loop (%d)", most)
}

// hostPorts is "127.0.0.1:8080→80/TCP" for each mapping.
func (n nodeRow) hostPorts() string {
	list := ""
	for i, p := range n.ExtraPortMappings {
		if i > 0 {
			list += ","
		}
		list += fmt.Sprintf("%s→%d/%s", net.JoinHostPort(p.ListenAddress, strconv.Itoa(int(p.HostPort))), p.ContainerPort, p.Protocol)
	}
	return list
}
