package lb

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/iotest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
)

// encoded is a list of n Services as the API server encodes it.
func encoded(t testing.TB, n int) []byte {
	list := &corev1.ServiceList{ListMeta: metav1.ListMeta{ResourceVersion: "42"}}
	for i := range n {
		list.Items = append(list.Items, *web(func(s *corev1.Service) { s.Name = fmt.Sprint("s", i) }))
	}
	return encode(t, list)
}

func encode(t testing.TB, list runtime.Object) []byte {
	var out bytes.Buffer
	if err := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme).Encode(list, &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestListsAreReadItemByItem(t *testing.T) {
	for _, n := range []int{0, 1, 300} {
		var meta metav1.ListMeta
		var names []string
		err := readList(iotest.HalfReader(bytes.NewReader(encoded(t, n))), &meta, func(raw []byte) error {
			var s corev1.Service
			if err := s.Unmarshal(raw); err != nil {
				return err
			}
			names = append(names, s.Name)
			return nil
		})
		if err != nil || meta.ResourceVersion != "42" || len(names) != n {
			t.Fatalf("%d items: got %d at %q, %v", n, len(names), meta.ResourceVersion, err)
		}
		for i, name := range names {
			if name != fmt.Sprint("s", i) {
				t.Errorf("item %d is %s", i, name)
			}
		}
	}
}

// TestListsThatAreCutAreErrors: a list that lacks its end must not look like
// one whose objects are gone.
func TestListsThatAreCutAreErrors(t *testing.T) {
	whole := encoded(t, 3)
	nothing := func([]byte) error { return nil }
	for n := range whole {
		// The last fields, which are empty, are nobody's loss.
		err := readList(bytes.NewReader(whole[:n]), &metav1.ListMeta{}, nothing)
		if n < len(whole)-4 && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d of %d bytes: %v", n, len(whole), err)
		}
	}
	for name, text := range map[string]string{
		"JSON":               `{"kind":"ServiceList"}`,
		"a number":           "k8s\x00\x08\x01",
		"an impossible item": "k8s\x00\x12\xff\xff\xff\xff\x7f\x12\xff\xff\xff\xff\x7f",
	} {
		if err := readList(bytes.NewReader([]byte(text)), &metav1.ListMeta{}, nothing); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzList(f *testing.F) {
	f.Add(encoded(f, 2))
	f.Fuzz(func(t *testing.T, raw []byte) {
		_ = readList(bytes.NewReader(raw), &metav1.ListMeta{}, func(raw []byte) error { return new(corev1.Service).Unmarshal(raw) })
	})
}
