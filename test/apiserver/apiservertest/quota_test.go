package apiservertest_test

import (
	"fmt"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/test/apiserver/apiservertest"
)

// TestAQuotaIsInForceOnceItsStatusSaysSo creates objects right after the status
// of their quota was written, in many namespaces at a time: upstream's
// admission, whose view is late now and then, lets about one in a hundred through.
func TestAQuotaIsInForceOnceItsStatusSaysSo(t *testing.T) {
	t.Parallel()
	srv := apiservertest.Start(t)
	client := kubernetes.NewForConfigOrDie(srv.Config())
	const clients, each = 14, 40
	var group sync.WaitGroup
	for c := range clients {
		group.Go(func() {
			for i := range each {
				if err := exceed(t, client, fmt.Sprintf("quota-%d-%d", c, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
}

// exceed wants the second ConfigMap of a namespace to be refused by a quota of one.
func exceed(t *testing.T, client kubernetes.Interface, namespace string) error {
	ctx := t.Context()
	const configMaps corev1.ResourceName = "count/configmaps"
	one := corev1.ResourceList{configMaps: quantity("1")}
	if _, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "objects"}, Spec: corev1.ResourceQuotaSpec{Hard: one}}
	quota, err := client.CoreV1().ResourceQuotas(namespace).Create(ctx, quota, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	quota.Status = corev1.ResourceQuotaStatus{Hard: one, Used: corev1.ResourceList{configMaps: quantity("0")}}
	if _, err := client.CoreV1().ResourceQuotas(namespace).UpdateStatus(ctx, quota, metav1.UpdateOptions{}); err != nil {
		return err
	}
	for _, name := range []string{"first", "second"} {
		object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}
		_, err := client.CoreV1().ConfigMaps(namespace).Create(ctx, object, metav1.CreateOptions{})
		if refused := apierrors.IsForbidden(err); refused != (name == "second") {
			return fmt.Errorf("%s: %s ConfigMap: %v", namespace, name, err)
		}
	}
	return nil
}
