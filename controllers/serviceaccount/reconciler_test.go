package serviceaccount_test

import (
	"os"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/controllers/apitest"
	"github.com/skiff-k8s/skiff/controllers/serviceaccount"
)

func TestMain(m *testing.M) {
	os.Exit(apitest.Main(m))
}

// TestDefaultReturns: every namespace has the account, also after somebody
// deleted it.
func TestDefaultReturns(t *testing.T) {
	ctx := t.Context()
	api := apitest.Run(t)
	accounts := api.Client.CoreV1().ServiceAccounts(api.Namespace(t))
	first, err := accounts.Get(ctx, serviceaccount.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := accounts.Delete(ctx, serviceaccount.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Log("back:", apitest.Eventually(t, func() string {
		second, err := accounts.Get(ctx, serviceaccount.Name, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if second.UID == first.UID {
			return "still there"
		}
		return ""
	}))
}
