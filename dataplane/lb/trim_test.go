package lb

import (
	"bytes"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// written is metadata as the API server has it.
func written(m *metav1.ObjectMeta) {
	now := metav1.Now().Rfc3339Copy()
	m.UID, m.ResourceVersion, m.Generation, m.CreationTimestamp = "b2d9", "42", 3, now
	m.Annotations = map[string]string{"a": "b"}
	m.Finalizers = []string{"service.kubernetes.io/load-balancer-cleanup"}
	for _, manager := range []string{"kubectl", "controllers"} {
		m.ManagedFields = append(m.ManagedFields, metav1.ManagedFieldsEntry{
			Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1", Time: &now,
			FieldsType: "FieldsV1", FieldsV1: &metav1.FieldsV1{Raw: bytes.Repeat([]byte(`{"f:spec":{}}`), 30)},
		})
	}
}

func TestTrimLeavesAllButManagedFields(t *testing.T) {
	var trim trimmer
	for range 2 { // its room is used again
		service := web(balanced("172.31.0.5", corev1.LoadBalancerIPModeVIP))
		written(&service.ObjectMeta)
		raw, err := service.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		var gotService corev1.Service
		short := trim.trim(raw)
		if err := gotService.Unmarshal(short); err != nil {
			t.Fatal(err)
		}
		if service.ManagedFields = nil; !equality.Semantic.DeepEqual(&gotService, service) || len(short) > len(raw)/2 {
			t.Errorf("%d of %d bytes: got %v, want %v", len(short), len(raw), gotService, service)
		}

		es := sliceOf("10.244.1.1@n1#a", "10.244.1.2@n1~")
		written(&es.ObjectMeta)
		if raw, err = es.Marshal(); err != nil {
			t.Fatal(err)
		}
		var gotSlice discoveryv1.EndpointSlice
		if err := gotSlice.Unmarshal(trim.trim(raw)); err != nil {
			t.Fatal(err)
		}
		if es.ManagedFields = nil; !equality.Semantic.DeepEqual(&gotSlice, es) {
			t.Errorf("got %v, want %v", gotSlice, es)
		}
	}
}

// TestTrimLeavesWhatItCannotRead: the decoder has the error.
func TestTrimLeavesWhatItCannotRead(t *testing.T) {
	service := web(nil)
	written(&service.ObjectMeta)
	raw, err := service.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var trim trimmer
	for n := range raw {
		cut := raw[:n]
		whole, short := new(corev1.Service).Unmarshal(cut), new(corev1.Service).Unmarshal(trim.trim(cut))
		if (whole == nil) != (short == nil) {
			t.Errorf("%d of %d bytes: %v, without managed fields %v", n, len(raw), whole, short)
		}
	}
}

func FuzzTrim(f *testing.F) {
	service := web(nil)
	written(&service.ObjectMeta)
	raw, err := service.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		var trim trimmer
		var whole, short corev1.Service
		_ = short.Unmarshal(trim.trim(raw)) // whatever comes, nothing panics
		if whole.Unmarshal(raw) != nil {
			return
		}
		// As an API server writes it.
		written, err := whole.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		whole, short = corev1.Service{}, corev1.Service{}
		if err := whole.Unmarshal(written); err != nil {
			return
		}
		if err := short.Unmarshal(trim.trim(written)); err != nil {
			t.Fatal(err)
		}
		if whole.ManagedFields = nil; !equality.Semantic.DeepEqual(&whole, &short) {
			t.Errorf("got %v, want %v", short, whole)
		}
	})
}
