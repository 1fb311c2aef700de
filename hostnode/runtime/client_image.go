package runtime

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// imageClient is the kubelet's view of the image service, see runtimeClient.
type imageClient struct {
	service *service
}

var _ internalapi.ImageManagerService = (*imageClient)(nil)

func (c *imageClient) ListImages(ctx context.Context, filter *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	response, err := invoke(ctx, callTimeout, c.service.ListImages, &runtimeapi.ListImagesRequest{Filter: filter})
	return response.GetImages(), err
}

func (c *imageClient) ImageStatus(ctx context.Context, image *runtimeapi.ImageSpec, verbose bool) (*runtimeapi.ImageStatusResponse, error) {
	response, err := invoke(ctx, callTimeout, c.service.ImageStatus, &runtimeapi.ImageStatusRequest{Image: image, Verbose: verbose})
	if err != nil {
		return nil, err
	}
	if i := response.GetImage(); i != nil && (i.GetId() == "" || i.GetSize() == 0) {
		return nil, missing("ImageStatus", "id or size")
	}
	return response, nil
}

// PullImage has no timeout: pulls take as long as they take, and containerd
// gives up on one without progress.
func (c *imageClient) PullImage(ctx context.Context, image *runtimeapi.ImageSpec, auth *runtimeapi.AuthConfig, sandbox *runtimeapi.PodSandboxConfig) (string, error) {
	response, err := invoke(ctx, 0, c.service.PullImage, &runtimeapi.PullImageRequest{Image: image, Auth: auth, SandboxConfig: sandbox})
	if err != nil {
		// The kubelet recognizes its own error types by their text.
		if s, ok := status.FromError(err); ok && s.Code() == codes.Unknown {
			return "", errors.New(s.Message())
		}
		return "", err
	}
	if response.GetImageRef() == "" {
		return "", missing("PullImage", "imageRef")
	}
	return response.GetImageRef(), nil
}

func (c *imageClient) RemoveImage(ctx context.Context, image *runtimeapi.ImageSpec) error {
	_, err := invoke(ctx, callTimeout, c.service.RemoveImage, &runtimeapi.RemoveImageRequest{Image: image})
	return err
}

func (c *imageClient) ImageFsInfo(ctx context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	return invoke(ctx, callTimeout, c.service.ImageFsInfo, &runtimeapi.ImageFsInfoRequest{})
}

// Close has no connection to close.
func (c *imageClient) Close(context.Context) error { return nil }
