package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// grower is a subject of any size. Upstream's assembly has three nodes, each
// with addresses of its own in its script.
type grower interface {
	subject
	// CreateNodes starts a cluster of one control plane and n-1 workers.
	CreateNodes(ctx context.Context, n int) (*rest.Config, error)
}

// sizes of clusters, smallest first.
type sizes []int

func (s *sizes) String() string { return strings.Trim(fmt.Sprint([]int(*s)), "[]") }

func (s *sizes) Set(list string) error {
	*s = nil
	for text := range strings.SplitSeq(list, ",") {
		if text == "" {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || len(*s) > 0 && n <= (*s)[len(*s)-1] {
			return fmt.Errorf("%q: want numbers of nodes, smallest first", list)
		}
		*s = append(*s, n)
	}
	return nil
}

func growthKey(from, to int) string { return fmt.Sprintf("node%d-%d", from, to) }

func (s sizes) figures() []figure {
	var all []figure
	for i := 1; i < len(s); i++ {
		from, to := s[i-1], s[i]
		all = append(all, figure{growthKey(from, to), fmt.Sprintf("PSS of a further node, %d → %d nodes, MB", from, to)})
	}
	return all
}

// growth compares the memory of empty clusters that idle.
func growth(ctx context.Context, s grower, opts options, got sample) error {
	var before float64
	for i, n := range opts.sizes {
		used, err := memory(ctx, s, n, opts.idle)
		if err != nil {
			return fmt.Errorf("cluster of %d nodes: %w", n, err)
		}
		if i > 0 {
			from := opts.sizes[i-1]
			got[growthKey(from, n)] = (used - before) / float64(n-from)
		}
		before = used
	}
	return nil
}

func memory(ctx context.Context, s grower, n int, idle time.Duration) (used float64, err error) {
	defer func() { err = errors.Join(err, s.Delete(context.WithoutCancel(ctx))) }()
	config, err := s.CreateNodes(ctx, n)
	if err != nil {
		return 0, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return 0, err
	}
	if err := untilReady(ctx, client, n); err != nil {
		return 0, fmt.Errorf("nodes Ready: %w", err)
	}
	select {
	case <-time.After(idle):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	pids, err := s.Processes()
	return pss(pids), err
}
