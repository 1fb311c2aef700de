package controllers

import (
	"maps"
	"slices"

	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

// Names returns the names of all controllers, upstream's and our own.
func Names() []string {
	return slices.Sorted(maps.Keys(app.NewControllerDescriptors()))
}
