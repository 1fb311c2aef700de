//go:build robustness

package robustness

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/test/robustness/journal"
)

// journalPause is between two records of one journal.
const journalPause = 20 * time.Millisecond

// journalWriter appends to the journal of one Pod, through a Service of its
// own: whatever address the Pod has.
type journalWriter struct {
	pod, address string

	mu sync.Mutex // guards the fields below
	// acknowledged has the numbers by ID, open the IDs without an answer.
	acknowledged map[string]int
	open         map[string]bool
	wrote        time.Time
}

// startJournals makes the StatefulSet and returns its Pods' writers.
func startJournals(ctx context.Context, client kubernetes.Interface, replicas int) ([]*journalWriter, error) {
	labels := map[string]string{"app": "journal"}
	pods := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec: corev1.PodSpec{
			// Pods of a dead node are replaced only when it is back; a short
			// grace keeps stops short.
			TerminationGracePeriodSeconds: new(int64(2)),
			Containers: []corev1.Container{{
				Name: "journal", Image: "skiff.cluster/journal:latest", ImagePullPolicy: corev1.PullNever, Args: []string{"/data"},
				VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}},
				ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
					HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}}},
			}},
			TopologySpreadConstraints: []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: corev1.LabelHostname,
				WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: &metav1.LabelSelector{MatchLabels: labels}}},
		},
	}
	_, err := client.AppsV1().StatefulSets(loadNamespace).Create(ctx, &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "journal"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: new(int32(replicas)), ServiceName: "journal", PodManagementPolicy: appsv1.ParallelPodManagement,
			Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: pods,
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{
				ObjectMeta: metav1.ObjectMeta{Name: "data"},
				Spec: corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
					Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}},
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	var writers []*journalWriter
	for i := range replicas {
		pod := fmt.Sprintf("journal-%d", i)
		service, err := client.CoreV1().Services(loadNamespace).Create(ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: pod},
			Spec: corev1.ServiceSpec{Selector: map[string]string{appsv1.StatefulSetPodNameLabel: pod},
				Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
		}, metav1.CreateOptions{})
		if err != nil {
			return nil, err
		}
		writers = append(writers, &journalWriter{pod: pod, address: "http://" + service.Spec.ClusterIP, acknowledged: map[string]int{}, open: map[string]bool{}})
	}
	return writers, nil
}

// run until ctx ends.
func (j *journalWriter) run(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		j.append(fmt.Sprintf("%s-%d", j.pod, i))
		select {
		case <-ctx.Done():
		case <-time.After(journalPause):
		}
	}
}

// client makes a connection for each request: one that leads nowhere is not
// waited on twice.
var journalClient = &http.Client{Timeout: requestBound, Transport: &http.Transport{
	DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: requestBound}).DialContext}}

func (j *journalWriter) append(id string) {
	j.mu.Lock()
	j.open[id] = true
	j.mu.Unlock()
	response, err := journalClient.Post(j.address+"/append?id="+url.QueryEscape(id), "", nil)
	if err != nil {
		return
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		return
	}
	number, err := strconv.Atoi(string(body))
	if err != nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.open, id)
	j.acknowledged[id], j.wrote = number, time.Now()
}

func (j *journalWriter) lastWrite() time.Time {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.wrote
}

// read is the journal as the Pod sees it.
func (j *journalWriter) read() ([]byte, error) {
	response, err := journalClient.Get(j.address + "/journal")
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("read journal of %s: %s", j.pod, response.Status)
	}
	return io.ReadAll(response.Body)
}

// verify says what is wrong with a journal that was read now.
func (j *journalWriter) verify(data []byte) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var wrong []string
	for _, w := range journal.Verify(data, j.acknowledged, j.open) {
		wrong = append(wrong, j.pod+": "+w)
	}
	return wrong
}

// verifyVolumes reads the journals where they are on the host, too, and says
// whether two processes ever had one at once.
func verifyVolumes(c *cluster, writers []*journalWriter) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(stateDir, c.name, "volumes", "*", "journal"))
	if err != nil {
		return nil, err
	}
	if len(files) != len(writers) {
		return nil, fmt.Errorf("have the journals %q, want %d", files, len(writers))
	}
	var wrong []string
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		records, _ := journal.Parse(data)
		for _, j := range writers {
			if len(records) > 0 && len(records[0].ID) > len(j.pod) && records[0].ID[:len(j.pod)] == j.pod {
				wrong = append(wrong, j.verify(data)...)
			}
		}
		if note, err := os.ReadFile(filepath.Join(filepath.Dir(file), "in-use")); err == nil {
			wrong = append(wrong, fmt.Sprintf("two processes had %s at once: %s", file, note))
		}
	}
	return wrong, nil
}
