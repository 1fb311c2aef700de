package volumesnapshots_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/controllers/apitest"
	"github.com/skiff-k8s/skiff/controllers/volumesnapshots"
)

func TestMain(m *testing.M) {
	os.Exit(apitest.Main(m))
}

func TestKindsAreTheModules(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/kubernetes-csi/external-snapshotter/client/v8").Output()
	if err != nil {
		t.Fatal(err)
	}
	all, err := volumesnapshots.Definitions()
	if err != nil || len(all) != 3 {
		t.Fatalf("%d kinds, %v", len(all), err)
	}
	for _, d := range all {
		name := "snapshot.storage.k8s.io_" + d.Spec.Names.Plural + ".yaml"
		theirs, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "config/crd", name))
		if err != nil {
			t.Fatal(err)
		}
		ours, err := volumesnapshots.Files.ReadFile("crds/" + name)
		if err != nil || !bytes.Equal(ours, theirs) {
			t.Errorf("%s differs (%v): go generate ./controllers/volumesnapshots", name, err)
		}
	}
}

// TestSomebodyElsesKinds: who has brought a kind brings its controller.
func TestSomebodyElsesKinds(t *testing.T) {
	ctx := t.Context()
	client, err := apiextensions.NewForConfig(apitest.Server(t).Config)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // as after a restart
		if ours, err := volumesnapshots.EnsureKinds(ctx, client); err != nil || !ours {
			t.Fatalf("kinds that were made here: ours %v, %v", ours, err)
		}
	}
	api := client.ApiextensionsV1().CustomResourceDefinitions()
	theirs, err := api.Get(ctx, "volumesnapshots.snapshot.storage.k8s.io", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	label := func(ctx context.Context, labels map[string]string) {
		t.Helper()
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels}})
		if err == nil {
			_, err = api.Patch(ctx, theirs.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	ours := theirs.Labels
	label(ctx, nil)
	t.Cleanup(func() { label(context.Background(), ours) })
	if ours, err := volumesnapshots.EnsureKinds(ctx, client); err != nil || ours {
		t.Errorf("a kind without the label: ours %v, %v", ours, err)
	}
}
