package apiservertest_test

import (
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/test/apiserver/apiservertest"
)

// webhooks serves admission reviews on loopback: /mutate adds a key, /validate
// refuses the key "forbidden", /slow answers after a second.
func webhooks(t *testing.T) (url string, ca []byte) {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(review))
	t.Cleanup(server.Close)
	return server.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}

func review(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var in admissionv1.AdmissionReview
	if err := json.Unmarshal(body, &in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var object corev1.ConfigMap
	if err := json.Unmarshal(in.Request.Object.Raw, &object); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	out := &admissionv1.AdmissionResponse{UID: in.Request.UID, Allowed: true}
	switch r.URL.Path {
	case "/mutate":
		out.PatchType = ptr.To(admissionv1.PatchTypeJSONPatch)
		out.Patch = []byte(`[{"op":"add","path":"/data/mutated","value":"yes"}]`)
	case "/validate":
		if _, ok := object.Data["forbidden"]; ok {
			out.Allowed = false
			out.Result = &metav1.Status{Message: "no such key, please"}
		}
	case "/slow":
		time.Sleep(time.Second)
	}
	in.Response, in.Request = out, nil
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(in)
}

// hooked limits a webhook to config maps labelled hook=<name>.
func hooked(name string) (rules []admissionregistrationv1.RuleWithOperations, selector *metav1.LabelSelector) {
	return []admissionregistrationv1.RuleWithOperations{{
		Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
		Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}},
	}}, &metav1.LabelSelector{MatchLabels: map[string]string{"hook": name}}
}

func validating(t *testing.T, client kubernetes.Interface, name string, config admissionregistrationv1.WebhookClientConfig) {
	t.Helper()
	rules, selector := hooked(name)
	_, err := client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(t.Context(), &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: name + ".skiff.test", ClientConfig: config, Rules: rules, ObjectSelector: selector,
			SideEffects: ptr.To(admissionregistrationv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func labelled(hook string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "c-", Labels: map[string]string{"hook": hook}}, Data: data}
}

func TestWebhooksByURL(t *testing.T) {
	t.Parallel()
	url, ca := webhooks(t)
	srv := apiservertest.Start(t)
	client := kubernetes.NewForConfigOrDie(srv.Config())
	configMaps := client.CoreV1().ConfigMaps("default")

	validating(t, client, "validate", admissionregistrationv1.WebhookClientConfig{URL: ptr.To(url + "/validate"), CABundle: ca})
	rules, selector := hooked("mutate")
	_, err := client.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(t.Context(), &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "mutate"},
		Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name: "mutate.skiff.test", ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: ptr.To(url + "/mutate"), CABundle: ca},
			Rules: rules, ObjectSelector: selector,
			SideEffects: ptr.To(admissionregistrationv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}

	eventually(t, func() error {
		_, err := configMaps.Create(t.Context(), labelled("validate", map[string]string{"forbidden": "1"}), metav1.CreateOptions{})
		if !apierrors.IsForbidden(err) && (err == nil || !strings.Contains(err.Error(), "no such key, please")) {
			return errorf("validating webhook: %v", err)
		}
		return nil
	})
	if _, err := configMaps.Create(t.Context(), labelled("validate", map[string]string{"fine": "1"}), metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
	eventually(t, func() error {
		made, err := configMaps.Create(t.Context(), labelled("mutate", map[string]string{"a": "b"}), metav1.CreateOptions{})
		if err == nil && made.Data["mutated"] != "yes" {
			err = errorf("not mutated: %v", made.Data)
		}
		return err
	})

	// A wrong CA bundle must fail, not fall back to something weaker.
	validating(t, client, "untrusted", admissionregistrationv1.WebhookClientConfig{URL: ptr.To(url + "/validate"), CABundle: srv.Config().CAData})
	eventually(t, func() error {
		_, err := configMaps.Create(t.Context(), labelled("untrusted", nil), metav1.CreateOptions{})
		if err == nil || !strings.Contains(err.Error(), "x509") {
			return errorf("webhook with the wrong CA: %v", err)
		}
		return nil
	})
}

func TestShutdownAnswersWhatItAccepted(t *testing.T) {
	t.Parallel()
	url, ca := webhooks(t)
	srv := apiservertest.Start(t)
	client := kubernetes.NewForConfigOrDie(srv.Config())
	configMaps := client.CoreV1().ConfigMaps("default")
	validating(t, client, "slow", admissionregistrationv1.WebhookClientConfig{URL: ptr.To(url + "/slow"), CABundle: ca})
	eventually(t, func() error {
		start := time.Now()
		_, err := configMaps.Create(t.Context(), labelled("slow", nil), metav1.CreateOptions{})
		if err == nil && time.Since(start) < time.Second {
			err = errorf("the webhook is not called yet")
		}
		return err
	})
	watch, err := configMaps.Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}

	result := make(chan error, 1)
	go func() {
		_, err := configMaps.Create(t.Context(), labelled("slow", map[string]string{"last": "one"}), metav1.CreateOptions{})
		result <- err
	}()
	time.Sleep(300 * time.Millisecond) // the request is with the webhook now
	start := time.Now()
	srv.Signal(syscall.SIGTERM)
	if err := <-result; err != nil {
		t.Errorf("the request in flight: %v", err)
	}
	select {
	case <-srv.Exited():
	case <-time.After(10 * time.Second):
		t.Fatal("still there 10 s after SIGTERM")
	}
	t.Logf("gone %v after SIGTERM", time.Since(start))
	if err := srv.Stop(); err != nil {
		t.Errorf("exit: %v\n%s", err, srv.Log())
	}
	drained := time.After(10 * time.Second)
	for open := true; open; {
		select {
		case _, open = <-watch.ResultChan():
		case <-drained:
			t.Fatal("the watch is still open")
		}
	}
	srv.Restart(t)
	list, err := kubernetes.NewForConfigOrDie(srv.Config()).CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{LabelSelector: "hook=slow"})
	if err != nil || len(list.Items) < 2 {
		t.Errorf("after the restart: %d, %v", len(list.Items), err)
	}
}

// TestAStopDuringTheStart: upstream's hooks kill a process whose start is cut
// short.
func TestAStopDuringTheStart(t *testing.T) {
	t.Parallel()
	srv := apiservertest.Start(t)
	for after := 20 * time.Millisecond; after < 400*time.Millisecond; after += 40 * time.Millisecond {
		// Before it listens for signals, the first ends it.
		if err := srv.Stop(); err != nil && err.Error() != "signal: terminated" {
			t.Errorf("%v\n%s", err, srv.Log())
		}
		srv.Launch(t)
		time.Sleep(after)
	}
}
