package cloudstorage

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/api/resource"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// forSidecars is the prefix of parameters that tell a driver whose volume it is.
const forSidecars = "csi.storage.k8s.io/"

// ControllerModifyVolume accepts what the cloud would. Its disks are one disk,
// which has the speed that it has.
func (d *Driver) ControllerModifyVolume(_ context.Context, req *csi.ControllerModifyVolumeRequest) (*csi.ControllerModifyVolumeResponse, error) {
	if err := required("volume_id", req.GetVolumeId()); err != nil {
		return nil, err
	}
	if _, err := d.find(req.GetVolumeId(), nil); err != nil {
		return nil, err
	}
	if err := d.checkAttributes(req.GetMutableParameters()); err != nil {
		return nil, err
	}
	return &csi.ControllerModifyVolumeResponse{}, nil
}

// checkAttributes refuses parameters of a VolumeAttributesClass that the driver
// does not have.
func (d *Driver) checkAttributes(parameters map[string]string) error {
	if len(parameters) > 0 && d.spec.Attributes == nil {
		return status.Errorf(codes.InvalidArgument, "volumes of %s have no attributes that could be modified", d.spec.Name)
	}
	for _, key := range slices.Sorted(maps.Keys(parameters)) {
		if strings.HasPrefix(key, forSidecars) {
			continue
		}
		kind := d.spec.Attributes[strings.TrimRight(strings.ToLower(key), "_0123456789")]
		if kind == "" {
			return status.Errorf(codes.InvalidArgument, "parameter %s: volumes of %s have %s", key, d.spec.Name,
				strings.Join(slices.Sorted(maps.Keys(d.spec.Attributes)), ", "))
		}
		if !isKind(kind, parameters[key]) {
			return status.Errorf(codes.InvalidArgument, "parameter %s: %q is not a %s", key, parameters[key], kind)
		}
	}
	return nil
}

func isKind(kind machinev1alpha1.AttributeKind, value string) bool {
	var err error
	switch kind {
	case machinev1alpha1.IntegerAttribute:
		_, err = strconv.ParseInt(value, 10, 64)
	case machinev1alpha1.QuantityAttribute:
		_, err = resource.ParseQuantity(value)
	}
	return err == nil
}
