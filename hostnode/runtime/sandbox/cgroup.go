package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// removeUnifiedCgroup removes a pod's directory in the cgroup2 hierarchy that
// stands beside those of v1. runc makes it with the first container, and the
// kubelet, which removes the others, does not know it. Containers of another
// sandbox of the pod keep it.
func removeUnifiedCgroup(pod string) error {
	if pod == "" || cgroups.Mode() != cgroups.Hybrid {
		return nil
	}
	err := os.Remove(filepath.Join("/sys/fs/cgroup/unified", filepath.Clean("/"+pod)))
	if err == nil || errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOTEMPTY) {
		return nil
	}
	return err
}

// podMetrics reads the cgroup that holds all of a pod's containers. CRI
// expects the statistics of whichever cgroup version it finds itself.
func podMetrics(id, cgroup string) (*types.Metric, error) {
	if cgroup == "" {
		return nil, fmt.Errorf("metrics of sandbox %s: pod has no cgroup: %w", id, errdefs.ErrNotFound)
	}
	stats, err := podStats(cgroup)
	if err != nil {
		return nil, fmt.Errorf("metrics of sandbox %s: cgroup %s: %w", id, cgroup, err)
	}
	data, err := typeurl.MarshalAnyToProto(stats)
	if err != nil {
		return nil, fmt.Errorf("metrics of sandbox %s: %w", id, err)
	}
	return &types.Metric{Timestamp: timestamppb.Now(), ID: id, Data: data}, nil
}

func podStats(path string) (any, error) {
	if cgroups.Mode() == cgroups.Unified {
		group, err := cgroup2.Load(path)
		if err != nil {
			return nil, err
		}
		return group.StatFiltered(cgroup2.StatCPU | cgroup2.StatMemory)
	}
	group, err := cgroup1.Load(cgroup1.StaticPath(path))
	if err != nil {
		return nil, err
	}
	return group.Stat(cgroup1.IgnoreNotExist)
}
