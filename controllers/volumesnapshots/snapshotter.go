package volumesnapshots

import (
	"context"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	upstream "github.com/kubernetes-csi/external-snapshotter/v8/pkg/snapshotter"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// snapshotter calls a driver in this process.
type snapshotter struct {
	driver string
	csi.ControllerServer
}

var _ upstream.Snapshotter = snapshotter{}

func (s snapshotter) CreateSnapshot(ctx context.Context, name, volume string, parameters, secrets map[string]string) (driver, id string, created time.Time, size int64, ready bool, err error) {
	resp, err := s.ControllerServer.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{
		SourceVolumeId: volume, Name: name, Parameters: parameters, Secrets: secrets,
	})
	if err != nil {
		return "", "", time.Time{}, 0, false, err
	}
	made := resp.GetSnapshot()
	return s.driver, made.GetSnapshotId(), made.GetCreationTime().AsTime(), made.GetSizeBytes(), made.GetReadyToUse(), nil
}

func (s snapshotter) DeleteSnapshot(ctx context.Context, id string, secrets map[string]string) error {
	_, err := s.ControllerServer.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: id, Secrets: secrets})
	return err
}

func (s snapshotter) GetSnapshotStatus(ctx context.Context, id string, secrets map[string]string) (ready bool, created time.Time, size int64, group string, err error) {
	resp, err := s.ListSnapshots(ctx, &csi.ListSnapshotsRequest{SnapshotId: id, Secrets: secrets})
	if err != nil {
		return false, time.Time{}, 0, "", err
	}
	if len(resp.GetEntries()) == 0 {
		return false, time.Time{}, 0, "", status.Errorf(codes.NotFound, "snapshot %s: not found", id)
	}
	found := resp.GetEntries()[0].GetSnapshot()
	return found.GetReadyToUse(), found.GetCreationTime().AsTime(), found.GetSizeBytes(), found.GetGroupSnapshotId(), nil
}
