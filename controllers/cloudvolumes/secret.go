package cloudvolumes

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ensureShareSecret makes the Secret with the account of an in-tree Azure
// share, as Azure's driver does when it provisions one: kubelets read it
// before they mount. The account is nobody's.
func (c *Controller) ensureShareSecret(ctx context.Context, pv *corev1.PersistentVolume, namespace string) error {
	share := pv.Spec.AzureFile
	if share == nil {
		return nil
	}
	share.SecretNamespace = &namespace
	err := c.client.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: share.SecretName},
		Type:       corev1.SecretTypeOpaque,
		Data:       map[string][]byte{"azurestorageaccountname": []byte(cloudProvider), "azurestorageaccountkey": []byte(cloudProvider)},
	})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("secret of share %s: %w", share.ShareName, err)
	}
	return nil
}
