package sandbox

import (
	"fmt"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/timestamppb"
)

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
