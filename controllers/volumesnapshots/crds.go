package volumesnapshots

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/yaml"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

//go:embed crds/*.yaml
var files embed.FS

// definitions are the kinds of snapshots.
func definitions() ([]*apiextensionsv1.CustomResourceDefinition, error) {
	names, err := fs.Glob(files, "crds/*.yaml")
	if err != nil {
		return nil, err
	}
	var all []*apiextensionsv1.CustomResourceDefinition
	for _, name := range names {
		data, err := files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		d := &apiextensionsv1.CustomResourceDefinition{}
		if err := yaml.UnmarshalStrict(data, d); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, d)
	}
	return all, nil
}

// ensureKinds makes the kinds that are missing and returns when all are
// served. ours says that all were made here, now or earlier.
func ensureKinds(ctx context.Context, client apiextensions.Interface) (ours bool, err error) {
	all, err := definitions()
	if err != nil {
		return false, err
	}
	api := client.ApiextensionsV1().CustomResourceDefinitions()
	ours = true
	for _, d := range all {
		have, err := api.Get(ctx, d.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			metav1.SetMetaDataLabel(&d.ObjectMeta, machinev1alpha1.CloudMark, "true")
			have, err = api.Create(ctx, d, metav1.CreateOptions{})
			if apierrors.IsAlreadyExists(err) {
				have, err = api.Get(ctx, d.Name, metav1.GetOptions{})
			}
		}
		if err != nil {
			return false, fmt.Errorf("kind %s: %w", d.Name, err)
		}
		if _, marked := have.Labels[machinev1alpha1.CloudMark]; !marked {
			ours = false
		}
	}
	for _, d := range all {
		if err := waitServed(ctx, api, d.Name); err != nil {
			return false, fmt.Errorf("kind %s: %w", d.Name, err)
		}
	}
	return ours, nil
}

type definitionGetter interface {
	Get(ctx context.Context, name string, opts metav1.GetOptions) (*apiextensionsv1.CustomResourceDefinition, error)
}

func waitServed(ctx context.Context, api definitionGetter, name string) error {
	return wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		d, err := api.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		return apihelpers.IsCRDConditionTrue(d, apiextensionsv1.Established), nil
	})
}
