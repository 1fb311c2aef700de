package runtime

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestAnHTTPPreStopHookIsAsked(t *testing.T) {
	asked := make(chan string, 1)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path + " " + r.Header.Get("X-Mine") + " " + r.UserAgent()
		w.WriteHeader(http.StatusInternalServerError) // is fine
	})
	plain, secure := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	defer plain.Close()
	defer secure.Close()
	port := func(s *httptest.Server) string {
		_, p, _ := net.SplitHostPort(s.Listener.Addr().String())
		return p
	}
	for name, tt := range map[string]struct {
		server *httptest.Server
		scheme corev1.URIScheme
		port   intstr.IntOrString
	}{
		"by number":                        {plain, "", intstr.Parse(port(plain))},
		"by name":                          {plain, corev1.URISchemeHTTP, intstr.FromString("web")},
		"with a certificate of its own":    {secure, corev1.URISchemeHTTPS, intstr.Parse(port(secure))},
		"that is plain and says it is not": {plain, corev1.URISchemeHTTPS, intstr.Parse(port(plain))},
	} {
		t.Run(name, func(t *testing.T) {
			c := &runtimeapi.Container{Annotations: map[string]string{portsAnnotation: `[{"name":"web","containerPort":` + port(tt.server) + `}]`}}
			hook := &corev1.LifecycleHandler{HTTPGet: &corev1.HTTPGetAction{
				Host: "127.0.0.1", Path: "/bye", Port: tt.port, Scheme: tt.scheme, HTTPHeaders: []corev1.HTTPHeader{{Name: "X-Mine", Value: "yes"}},
			}}
			if err := (&Runtime{}).preStop(t.Context(), c, hook, 10*time.Second); err != nil {
				t.Fatal(err)
			}
			if got := <-asked; !strings.HasPrefix(got, "/bye yes kube-lifecycle/") {
				t.Errorf("asked %q", got)
			}
		})
	}
}

func TestAnHTTPPreStopHookThatCannotBeAskedTakesNoLongerThanTheGrace(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer silent.Close()
	_, port, _ := net.SplitHostPort(silent.Addr().String())
	ask := func(p intstr.IntOrString) error {
		hook := &corev1.LifecycleHandler{HTTPGet: &corev1.HTTPGetAction{Host: "127.0.0.1", Port: p}}
		return (&Runtime{}).preStop(t.Context(), &runtimeapi.Container{}, hook, 200*time.Millisecond)
	}
	start := time.Now()
	if err := ask(intstr.Parse(port)); err == nil || time.Since(start) > 5*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
	if err := ask(intstr.FromString("nobody")); err == nil {
		t.Error("a port without a number")
	}
}
