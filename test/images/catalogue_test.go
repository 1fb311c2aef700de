package main

import (
	"slices"
	"testing"

	imageutils "k8s.io/kubernetes/test/utils/image"
)

const noModule = "the Go proxy does not have its module"

// unmade are images that upstream's suite may ask for and nothing here stands
// in for, with the reason.
var unmade = map[string]string{
	"gcr.io/k8s-authenticated-test/agnhost:2.6":       "specs want its pull refused",
	"invalid.registry.k8s.io/invalid/alpine:3.1":      "specs want its pull to fail",
	e2eRegistry + "node-perf/npb-ep:1.6.0":            "of the node suite alone",
	e2eRegistry + "node-perf/npb-is:1.7.0":            "of the node suite alone",
	e2eRegistry + "node-perf/pytorch-wide-deep:1.0.0": "of the node suite alone",
	e2eRegistry + "volume/iscsi:2.7":                  "serves from the kernel's iSCSI target",
	e2eRegistry + "volume/nfs:1.6.0":                  "serves from the kernel's NFS server",
	sigStorage + "nfs-provisioner:v4.0.8":             "its volumes want the kernel's NFS client",

	sigStorage + "csi-external-health-monitor-controller:v0.18.0": noModule,
	sigStorage + "csi-snapshot-metadata:v1.0.0":                   noModule,
	sigStorage + "hello-populator:v1.0.1":                         noModule,
	sigStorage + "livenessprobe:v2.19.0":                          noModule,
	sigStorage + "volume-data-source-validator:v1.0.0":            noModule,

	"registry.k8s.io/cloud-provider-gcp/gcp-compute-persistent-disk-csi-driver:v1.4.0": "for nodes in that cloud",
}

func TestEveryImageOfUpstreamsSuiteIsMadeOrHasAReason(t *testing.T) {
	var made []string
	for _, r := range recipes() {
		made = append(made, r.names...)
	}
	asked := map[string]bool{}
	for _, config := range imageutils.GetOriginalImageConfigs() {
		name := config.GetE2EImage()
		asked[name] = true
		_, excused := unmade[name]
		switch isMade := slices.Contains(made, name); {
		case isMade && excused:
			t.Errorf("image %s: made, and excused as well", name)
		case !isMade && !excused:
			t.Errorf("image %s: neither made nor excused", name)
		}
	}
	for name := range unmade {
		if !asked[name] {
			t.Errorf("image %s: excused, but the suite does not ask for it", name)
		}
	}
}
