package cloudvolumes

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

const (
	snapshotKind = "VolumeSnapshot"
	// annModeChange lets a claim have another volume mode than the snapshot.
	annModeChange = "snapshot.storage.kubernetes.io/allow-volume-mode-change"
)

// snapshotSource is the named snapshot, with which a claim's volume begins.
// Until it is ready, asking again helps.
func (c *Controller) snapshotSource(ctx context.Context, claim *corev1.PersistentVolumeClaim, name, driver string) (*csi.VolumeContentSource, error) {
	snapshot, err := c.cfg.Snapshots.SnapshotV1().VolumeSnapshots(claim.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("dataSource: %w", err)
	}
	bound := ""
	if snapshot.Status != nil {
		bound = ptr.Deref(snapshot.Status.BoundVolumeSnapshotContentName, "")
	}
	switch {
	case snapshot.DeletionTimestamp != nil:
		return nil, fmt.Errorf("dataSource: snapshot %s is being deleted", name)
	case bound == "" || !ptr.Deref(snapshot.Status.ReadyToUse, false):
		return nil, fmt.Errorf("dataSource: snapshot %s is not ready", name)
	}
	content, err := c.cfg.Snapshots.SnapshotV1().VolumeSnapshotContents().Get(ctx, bound, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("dataSource: %w", err)
	}
	if reason := unusable(claim, snapshot, content, driver); reason != "" {
		return nil, status.Error(codes.InvalidArgument, "dataSource: snapshot "+name+" "+reason)
	}
	if content.Status == nil || content.Status.SnapshotHandle == nil {
		return nil, fmt.Errorf("dataSource: snapshot %s is not ready", name)
	}
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
		Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: *content.Status.SnapshotHandle},
	}}, nil
}

// unusable says why a claim cannot have a snapshot, as external-provisioner
// does.
func unusable(claim *corev1.PersistentVolumeClaim, snapshot *snapshotv1.VolumeSnapshot, content *snapshotv1.VolumeSnapshotContent, driver string) string {
	request, mode := claim.Spec.Resources.Requests[corev1.ResourceStorage], ptr.Deref(claim.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	switch {
	case content.Spec.VolumeSnapshotRef.UID != snapshot.UID:
		return "is not bound to content " + content.Name
	case content.Spec.Driver != driver:
		return "is of driver " + content.Spec.Driver
	case snapshot.Status.RestoreSize != nil && request.Cmp(*snapshot.Status.RestoreSize) < 0:
		return "needs " + snapshot.Status.RestoreSize.String()
	case content.Spec.SourceVolumeMode != nil && *content.Spec.SourceVolumeMode != mode && content.Annotations[annModeChange] != "true":
		return "has volumeMode " + string(*content.Spec.SourceVolumeMode)
	}
	return ""
}
