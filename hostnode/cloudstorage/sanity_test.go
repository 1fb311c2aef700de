package cloudstorage_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/cloudstorage"
)

// TestSanity runs the official suite of CSI on a driver of each kind: disks
// that are directories, disks that are file systems in files, and shares.
func TestSanity(t *testing.T) {
	for _, c := range []struct {
		driver string
		images bool
	}{
		{"pd.csi.storage.gke.io", false},
		{"ebs.csi.aws.com", true},
		{"file.csi.azure.com", false},
		{"pxd.portworx.com", false},
	} {
		dir := t.TempDir()
		socket := filepath.Join(dir, "csi.sock")
		d, err := cloudstorage.New(cloudstorage.Config{
			Root:  filepath.Join(dir, "cloud"),
			Cloud: machinev1alpha1.Cloud{Drivers: []string{c.driver}, Images: c.images},
		}, c.driver)
		if err != nil {
			t.Fatal(err)
		}
		node := d.Node("node", func() (string, error) { return "zone-a", nil })
		server, err := cloudstorage.Serve(t.Context(), socket, d, node)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := server.Close(); err != nil {
				t.Error(err)
			}
		})
		// As a kubelet does when a driver is registered.
		if _, err := node.NodeGetInfo(context.Background(), nil); err != nil {
			t.Fatal(err)
		}
		config := sanity.NewTestConfig()
		config.Address = socket
		config.TargetPath = filepath.Join(dir, "target")
		config.StagingPath = filepath.Join(dir, "staging")
		config.TestVolumeSize = 64 << 20
		config.TestVolumeExpandSize = 96 << 20
		config.TestVolumeMutableParameters = map[string]string{"iops": "3000"}
		config.IDGen = &sanity.DefaultIDGenerator{}
		ginkgo.Describe(c.driver, func() { sanity.GinkgoTest(&config) })
	}
	gomega.RegisterFailHandler(ginkgo.Fail)
	ginkgo.RunSpecs(t, "CSI sanity")
}
