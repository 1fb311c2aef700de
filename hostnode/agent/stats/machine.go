package stats

import (
	"crypto/sha256"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/google/cadvisor/lib/machine"
	cadvisor "github.com/google/cadvisor/lib/model"
	"github.com/google/cadvisor/lib/utils/sysfs"
	"github.com/google/cadvisor/lib/utils/sysinfo"
)

// hugePagesDir has a directory for each size of huge pages of the kernel.
const hugePagesDir = "/sys/kernel/mm/hugepages/"

// machineInfo is the declared machine. What is not declared is the host's. A
// machine of declared memory has no huge pages: upstream takes them out of a
// node's memory, and the host's are not in what was declared.
func machineInfo(cfg Config) (*cadvisor.MachineInfo, error) {
	info := &cadvisor.MachineInfo{
		NumCores:       cfg.CPU,
		MemoryCapacity: uint64(cfg.MemoryBytes),
		MachineID:      identity("machine", cfg.Name)[:32],
		CloudProvider:  cadvisor.UnknownProvider,
		InstanceType:   cadvisor.UnknownInstance,
	}
	id := identity("system", cfg.Name)
	info.SystemUUID = id[:8] + "-" + id[8:12] + "-" + id[12:16] + "-" + id[16:20] + "-" + id[20:32]

	boot, err := bootID(cfg.Name)
	if err != nil {
		return nil, err
	}
	info.BootID = boot

	if cpuinfo, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		info.CPUVendorID = machine.GetCPUVendorID(cpuinfo)
		if speed, err := machine.GetClockSpeed(cpuinfo); err == nil {
			info.CpuFrequency = speed
		}
	}
	if info.NumCores == 0 {
		info.Topology, info.NumCores, err = machine.GetTopology(sysfs.NewRealSysFs())
		if err != nil {
			return nil, fmt.Errorf("read the host's CPUs: %w", err)
		}
	} else {
		info.Topology = declaredTopology(info.NumCores)
	}
	info.NumPhysicalCores, info.NumSockets = info.NumCores, 1

	if info.MemoryCapacity == 0 {
		info.MemoryCapacity, err = machine.GetMachineMemoryCapacity()
		if err != nil {
			return nil, fmt.Errorf("read the host's memory: %w", err)
		}
		// Reserved pages are memory of the host's that nobody else gets.
		info.HugePages, err = sysinfo.GetHugePagesInfo(sysfs.NewRealSysFs(), hugePagesDir)
		if err != nil {
			return nil, fmt.Errorf("read the host's huge pages: %w", err)
		}
	}
	for i := range info.Topology {
		info.Topology[i].Memory = info.MemoryCapacity / uint64(len(info.Topology))
	}
	return info, nil
}

// declaredTopology is one socket with cores of one thread each: a declared
// machine does not say more, and the CPU manager needs every CPU placed.
func declaredTopology(cores int) []cadvisor.Node {
	node := cadvisor.Node{}
	for i := range cores {
		node.Cores = append(node.Cores, cadvisor.Core{Id: i, Threads: []int{i}})
	}
	return []cadvisor.Node{node}
}

// identity is a stable hexadecimal name: two machines of one host must not
// share the host's machine id.
func identity(kind, name string) string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte("skiff "+kind+" "+name)))
}

// bootID changes when the machine is started again, as a real node's does at
// a reboot: it is made of the host's boot id and the start of the machine's
// pid 1.
func bootID(name string) (string, error) {
	host, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	started, err := startTime(1)
	if err != nil {
		return "", err
	}
	id := identity("boot "+strings.TrimSpace(string(host))+" "+started, name)
	return id[:8] + "-" + id[8:12] + "-" + id[12:16] + "-" + id[16:20] + "-" + id[20:32], nil
}

// startTime is a process's start in clock ticks since the host booted.
func startTime(pid int) (string, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", fmt.Errorf("read start of process %d: %w", pid, err)
	}
	// The name, in brackets, may contain anything; starttime is the 22nd field.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 {
		return "", fmt.Errorf("read start of process %d: %q has %d fields", pid, stat, len(fields))
	}
	return fields[19], nil
}
