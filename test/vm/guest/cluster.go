package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/skiff-k8s/skiff/dataplane/features"
)

// create makes the cluster and keeps what the command said.
func (g *guest) create() (string, error) {
	path := filepath.Join(filepath.Dir(statePath), "cluster.yaml")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		return "", err
	}
	_, said, err := outputs("", "skiff", "create", "cluster", "--config", path, "--wait", patience.String(), "--retain")
	g.state.Said = said
	return "", err
}

// refused expects create to name what is missing, and to make nothing.
func (g *guest) refused(missing error) (string, error) {
	if _, err := g.create(); err == nil || !strings.Contains(err.Error(), missing.Error()) {
		return "", fmt.Errorf("create: want %w, have %w", missing, err)
	}
	return missing.Error(), nothingLeft()
}

// deployment is the demo's, which is asked less often how it is: each probe
// takes a good part of a second of an emulated core.
func deployment() (string, error) {
	manifest, err := os.ReadFile(here + "/demo.yaml")
	if err != nil {
		return "", err
	}
	if err := apply(strings.Replace(string(manifest), "periodSeconds: 1\n", "periodSeconds: 30\n", 1)); err != nil {
		return "", err
	}
	_, err = kubectl("rollout", "status", "deployment/demo", "--timeout="+patience.String())
	return "", err
}

// service calls the demo at its cluster address.
func service() (answer string, err error) {
	ip, err := get("service/demo", "{.spec.clusterIP}")
	if err != nil {
		return "", err
	}
	return "", until(func() error {
		answer, err := fetch("http://" + ip)
		if err == nil && !strings.HasPrefix(answer, "Hello from skiff") {
			err = fmt.Errorf("the demo says %q", answer)
		}
		return err
	})
}

func (g *guest) writeDiary() (string, error) {
	if err := apply(diaryManifest); err != nil {
		return "", err
	}
	if _, err := kubectl("rollout", "status", "statefulset/diary", "--timeout="+patience.String()); err != nil {
		return "", err
	}
	have, err := diary()
	if err == nil && have != "up" {
		err = fmt.Errorf("diary: %q", have)
	}
	g.state.Diary = have
	return "", err
}

// worker is the worker's cgroup, pods that of its Pods.
const (
	worker = "/sys/fs/cgroup/skiff/skiff/skiff-worker"
	pods   = worker + "/kubepods"
)

func machineLimits() (string, error) {
	return "memory.max and cpu.max; capacity says the same", errors.Join(
		expectWords(worker+"/memory.max", fmt.Sprint(640<<20)),
		expectWords(worker+"/cpu.max", "100000 100000"),
		expectField("node/skiff-worker", "{.status.capacity.memory} {.status.capacity.cpu}", "640Mi 1"),
		// What the kubelet grants to all Pods.
		expectWords(pods+"/memory.max", fmt.Sprint(640<<20)),
	)
}

func qosTree() (string, error) {
	if err := apply(classes); err != nil {
		return "", err
	}
	if _, err := kubectl("wait", "pod/guaranteed", "pod/burstable", "pod/besteffort", "--for=condition=Ready", "--timeout="+patience.String()); err != nil {
		return "", err
	}
	var errs []error
	for name, want := range map[string]struct {
		under string
		files map[string]string
	}{
		// Shares become weights as runc has them: 102 shares are 17 and 2 are
		// 1 in its newer formula.
		"guaranteed": {pods, map[string]string{"memory.max": fmt.Sprint(48 << 20), "cpu.max": "10000 100000"}},
		"burstable":  {pods + "/burstable", map[string]string{"memory.max": fmt.Sprint(64 << 20), "cpu.max": "max 100000"}},
		"besteffort": {pods + "/besteffort", map[string]string{"memory.max": "max", "cpu.max": "max 100000", "cpu.weight": "1"}},
	} {
		uid, err := get("pod/"+name, "{.metadata.uid}")
		errs = append(errs, err, expectField("pod/"+name, "{.status.qosClass}", map[string]string{"guaranteed": "Guaranteed", "burstable": "Burstable", "besteffort": "BestEffort"}[name]))
		dir := want.under + "/pod" + uid
		for file, value := range want.files {
			errs = append(errs, expectWords(filepath.Join(dir, file), value))
		}
		errs = append(errs, inside(dir))
	}
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	// The host gives its processes CAP_SYS_RESOURCE, which lower scores need.
	for name, want := range map[string]string{"guaranteed": "-997", "besteffort": "1000"} {
		score, err := kubectl("exec", name, "--", "cat", "/proc/1/oom_score_adj")
		if err == nil && strings.TrimSpace(score) != want {
			err = fmt.Errorf("%s has the OOM score %q, want %s", name, score, want)
		}
		errs = append(errs, err)
	}
	_, err := kubectl("delete", "pod", "guaranteed", "burstable")
	return "kubepods, burstable, besteffort; memory.max, cpu.max, cpu.weight; OOM scores", errors.Join(append(errs, err)...)
}

// checkpoint asks the kubelet for one of the Pod that qosTree leaves, which runs
// on.
func checkpoint() (string, error) {
	said, err := kubectl("create", "--raw", "/api/v1/nodes/skiff-worker/proxy/checkpoint/default/besteffort/c", "-f", "/dev/null")
	if err != nil {
		return "", err
	}
	var made struct{ Items []string }
	if err := json.Unmarshal([]byte(said), &made); err != nil || len(made.Items) != 1 {
		return "", fmt.Errorf("the kubelet says %q", said)
	}
	files, err := skiff("exec", "skiff-worker", "--", "tar", "-tf", made.Items[0])
	if err == nil && !strings.Contains(files, "checkpoint/inventory.img") {
		err = fmt.Errorf("%s has no image of the processes:\n%s", made.Items[0], files)
	}
	return "", errors.Join(err, expectField("pod/besteffort", "{.status.phase} {.status.containerStatuses[0].restartCount}", "Running 0"))
}

// inside finds the container's process below a Pod's cgroup.
func inside(dir string) error {
	lists, err := filepath.Glob(dir + "/*/cgroup.procs")
	if err != nil {
		return err
	}
	for _, list := range lists {
		if procs, err := words(list); err == nil && procs != "" {
			return nil
		}
	}
	return fmt.Errorf("%s: no process in any container's cgroup", dir)
}

// fromPod calls the demo by its name, from the Pod without a class of its own.
func (g *guest) fromPod() (string, error) {
	out, err := kubectl("exec", "besteffort", "--", "wget", "-qO-", "-T", "60", "http://demo.default.svc.cluster.local")
	if err == nil && !strings.HasPrefix(out, "Hello from skiff") {
		err = fmt.Errorf("the demo says %q", out)
	}
	return "", err
}

// networkPolicy expects what the kernel can: enforcement, or to be told.
func (g *guest) networkPolicy() (string, error) {
	if err := apply(closed); err != nil {
		return "", err
	}
	seen := "enforced"
	var err error
	if missing := features.Policies(); missing != nil {
		seen = missing.Error() + "; create and an Event say so"
		if !strings.Contains(g.state.Said, missing.Error()) {
			return "", fmt.Errorf("create said %q, want %w", g.state.Said, missing)
		}
		err = notEnforced("closed")
	} else {
		err = until(func() error {
			if _, err := kubectl("exec", "besteffort", "--", "wget", "-qO-", "-T", "20", "http://demo.default.svc.cluster.local"); err == nil {
				return errors.New("the demo answers who may not call it")
			}
			return nil
		})
	}
	if err != nil {
		return "", err
	}
	if _, err := kubectl("delete", "networkpolicy", "closed"); err != nil {
		return "", err
	}
	// Or it was something else that kept the answer away.
	return seen, until(func() error { _, err := g.fromPod(); return err })
}

// notEnforced waits for the Event that says so of a NetworkPolicy.
func notEnforced(policy string) error {
	return until(func() error {
		events, err := kubectl("get", "events", "--field-selector", "reason=NotEnforced,involvedObject.name="+policy, "-o", "jsonpath={.items[*].message}")
		if err == nil && events == "" {
			err = fmt.Errorf("networkpolicy/%s: no Event NotEnforced", policy)
		}
		return err
	})
}

func oom() (string, error) {
	if err := apply(greedy); err != nil {
		return "", err
	}
	if err := untilPhase("greedy", "Failed"); err != nil {
		return "", err
	}
	if err := expectField("pod/greedy", "{.status.containerStatuses[0].state.terminated.reason} {.status.containerStatuses[0].state.terminated.exitCode}", "OOMKilled 137"); err != nil {
		return "", err
	}
	_, err := kubectl("delete", "pod", "greedy")
	return "", err
}

func evict() (string, error) {
	if err := apply(hog); err != nil {
		return "", err
	}
	message, err := evicted("hog", "memory")
	if err != nil {
		return "", err
	}
	restarts, err := get("pod/diary-0", "{.status.phase} {.status.containerStatuses[0].restartCount}")
	if err == nil && restarts != "Running 0" {
		err = fmt.Errorf("the guaranteed Pod: %s", restarts)
	}
	if err != nil {
		return "", err
	}
	_, err = kubectl("delete", "pod", "hog", "besteffort")
	return message, err
}

// evicted waits for a Pod's end and returns what is said about it.
func evicted(pod, resource string) (message string, err error) {
	if err := untilPhase(pod, "Failed"); err != nil {
		return "", err
	}
	if err := expectField("pod/"+pod, "{.status.reason}", "Evicted"); err != nil {
		return "", err
	}
	message, err = get("pod/"+pod, "{.status.message}")
	if err == nil && !strings.Contains(message, "low on resource: "+resource) {
		err = fmt.Errorf("evicted for another reason: %s", message)
	}
	return message, err
}

// quotas runs the test of the package that limits storage, which not every
// kernel can.
func quotas() (string, error) {
	return "", errors.Join(passes("projectquota.test", "TestLimits"), passes("projectquota.test", "TestAFileSystemWithoutQuotas"))
}

// fillDisk expects that nobody has more of the disk than the node, and that who
// takes it all is evicted.
func fillDisk() (string, error) {
	if err := expectField("node/skiff-worker", "{.status.capacity.ephemeral-storage}", fmt.Sprint(512<<20)); err != nil {
		return "", err
	}
	if err := apply(packrat); err != nil {
		return "", err
	}
	if err := untilPhase("packrat", "Running"); err != nil {
		return "", err
	}
	if said, err := kubectl("exec", "packrat", "--", "fallocate", "-l", "600M", "/big"); err == nil || !strings.Contains(err.Error(), "quota exceeded") {
		return "", fmt.Errorf("600 MiB at once: %q, %w", said, err)
	}
	if _, err := kubectl("exec", "packrat", "--", "touch", "/disk/go"); err != nil {
		return "", err
	}
	return evicted("packrat", "ephemeral-storage")
}
