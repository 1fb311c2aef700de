package nodelabels_test

import (
	"fmt"
	"os"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/controllers"
	"github.com/skiff-k8s/skiff/controllers/apitest"
	"github.com/skiff-k8s/skiff/controllers/nodelabels"
)

func TestMain(m *testing.M) {
	os.Exit(apitest.Main(m))
}

func TestANodeGetsItsLabelsOnce(t *testing.T) {
	const restricted = "node-restriction.kubernetes.io/zone"
	api := apitest.Server(t)
	apitest.RunWith(t, controllers.Config{NodeLabels: map[string]map[string]string{
		"labelled": {nodelabels.ControlPlane: "", restricted: "a"},
	}})
	api.Node(t, "labelled", nil)
	api.Node(t, "other", nil)
	nodes := api.Client.CoreV1().Nodes()
	labels := func(name string) map[string]string {
		node, err := nodes.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return node.Labels
	}
	apitest.Eventually(t, func() string {
		have := labels("labelled")
		if _, ok := have[nodelabels.ControlPlane]; !ok || have[restricted] != "a" {
			return fmt.Sprint("labels: ", have)
		}
		return ""
	})

	taken := fmt.Appendf(nil, `{"metadata":{"labels":{%q:null}}}`, restricted)
	if _, err := nodes.Patch(t.Context(), "labelled", types.MergePatchType, taken, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if left := apitest.Settled(func() string { return fmt.Sprint(labels("labelled")) }); left != fmt.Sprint(map[string]string{nodelabels.ControlPlane: ""}) {
		t.Errorf("after the user took one away: %s", left)
	}
	if have := labels("other"); len(have) != 0 {
		t.Errorf("a node without labels to get: %v", have)
	}
}
