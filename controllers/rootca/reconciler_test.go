package rootca_test

import (
	"os"
	"path/filepath"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/controller/certificates/rootcacertpublisher"

	"github.com/skiff-k8s/skiff/controllers/apitest"
)

func TestMain(m *testing.M) {
	os.Exit(apitest.Main(m))
}

// TestPublished: every namespace has the cluster's CA, also after somebody
// changed or deleted it.
func TestPublished(t *testing.T) {
	ctx := t.Context()
	api := apitest.Run(t)
	ca, err := os.ReadFile(filepath.Join(api.PKIDir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	maps := api.Client.CoreV1().ConfigMaps(api.Namespace(t))
	right := func() string {
		cm, err := maps.Get(ctx, rootcacertpublisher.RootCACertConfigMapName, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if len(cm.Data) != 1 || cm.Data["ca.crt"] != string(ca) {
			return "wrong content"
		}
		return ""
	}
	t.Log("published:", apitest.Eventually(t, right))
	if _, err := maps.Patch(ctx, rootcacertpublisher.RootCACertConfigMapName, types.MergePatchType, []byte(`{"data":{"ca.crt":"x","y":"z"}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Log("mended:", apitest.Eventually(t, right))
	if err := maps.Delete(ctx, rootcacertpublisher.RootCACertConfigMapName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Log("back:", apitest.Eventually(t, right))
}
