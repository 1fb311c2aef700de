package runtime

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// BenchmarkStart is from nothing, and from a directory that has been used, to
// a CRI that answers.
func BenchmarkStart(b *testing.B) {
	for _, c := range []struct {
		name  string
		fresh bool
	}{{"fresh", true}, {"again", false}} {
		b.Run(c.name, func(b *testing.B) {
			n := newNode(b)
			n.run()
			n.stop()
			for i := 0; b.Loop(); i++ {
				if c.fresh {
					b.StopTimer()
					n.cfg.Root = fmt.Sprintf("%s-%d", n.cfg.Root, i)
					b.StartTimer()
				}
				n.run()
				b.StopTimer()
				n.stop()
				if c.fresh {
					must(b, os.RemoveAll(n.cfg.Root))
				}
				b.StartTimer()
			}
		})
	}
}

// BenchmarkPod is one pod with one container, up and down; medians of its
// steps are in milliseconds.
func BenchmarkPod(b *testing.B) {
	n := newNode(b).start()
	ctx := b.Context()
	steps := map[string][]time.Duration{}
	step := func(name string, f func() error) {
		start := time.Now()
		must(b, f())
		steps[name] = append(steps[name], time.Since(start))
	}
	n.remove(n.runPod(nil).id) // the shim runs
	for i := 0; b.Loop(); i++ {
		config := podConfig(fmt.Sprintf("bench-%d", i), n.cfg.Root)
		var pod, container string
		up := time.Now()
		step("RunPodSandbox", func() (err error) { pod, err = n.cri.RunPodSandbox(ctx, config, ""); return })
		step("Create", func() (err error) {
			container, err = n.cri.CreateContainer(ctx, pod, containerConfig(config, "a", "exec sleep 1d"), config)
			return
		})
		step("Start", func() error { return n.cri.StartContainer(ctx, container) })
		down := time.Now()
		steps["up"] = append(steps["up"], down.Sub(up))
		step("Stop", func() error { return n.cri.StopContainer(ctx, container, 0) })
		step("Remove", func() error { return n.cri.RemoveContainer(ctx, container) })
		step("StopPodSandbox", func() error { return n.cri.StopPodSandbox(ctx, pod) })
		step("RemovePodSandbox", func() error { return n.cri.RemovePodSandbox(ctx, pod) })
		steps["down"] = append(steps["down"], time.Since(down))
	}
	for name, all := range steps {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, name+"-ms")
	}
}

// BenchmarkTwentyPodsAtOnce brings twenty pods up together.
func BenchmarkTwentyPodsAtOnce(b *testing.B) {
	n := newNode(b).start()
	n.remove(n.runPod(nil).id)
	for i := 0; b.Loop(); i++ {
		var up sync.WaitGroup
		errs := make(chan error, 20)
		for j := range 20 {
			up.Go(func() {
				config := podConfig(fmt.Sprintf("bench-%d-%d", i, j), n.cfg.Root)
				pod, err := n.cri.RunPodSandbox(b.Context(), config, "")
				if err == nil {
					var container string
					container, err = n.cri.CreateContainer(b.Context(), pod, containerConfig(config, "a", "exec sleep 1d"), config)
					if err == nil {
						err = n.cri.StartContainer(b.Context(), container)
					}
				}
				errs <- err
			})
		}
		up.Wait()
		for range 20 {
			must(b, <-errs)
		}
		b.StopTimer()
		if i == 0 {
			b.ReportMetric(float64(pss(b, n.shimPID()))/1024, "shim-MB")
			total := 0
			for _, pause := range n.statePIDs() {
				total += pss(b, pause)
			}
			b.ReportMetric(float64(total)/20, "pause-kB")
		}
		n.removeAll()
		b.StartTimer()
	}
}

// pss is a process's share of memory in kB.
func pss(b *testing.B, pid int) int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	must(b, err)
	for line := range bytes.Lines(data) {
		if fields := bytes.Fields(line); len(fields) > 1 && string(fields[0]) == "Pss:" {
			kb, err := strconv.Atoi(string(fields[1]))
			must(b, err)
			return kb
		}
	}
	b.Fatal("no Pss in smaps_rollup")
	return 0
}
