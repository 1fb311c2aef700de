package runtime

import (
	"context"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The image calls see to it first that the node knows the images of the host's
// store that the call is about.

func (s *service) ImageStatus(ctx context.Context, r *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	if err := s.images.reveal(ctx, r.GetImage().GetImage()); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return call(ctx, s.cri.ImageStatus, r)
}

func (s *service) ListImages(ctx context.Context, r *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	if err := s.images.revealAll(ctx); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return call(ctx, s.cri.ListImages, r)
}

func (s *service) StreamImages(r *runtimeapi.StreamImagesRequest, to grpc.ServerStreamingServer[runtimeapi.StreamImagesResponse]) error {
	if err := s.images.revealAll(to.Context()); err != nil {
		return errgrpc.ToGRPC(err)
	}
	return errgrpc.ToGRPC(s.cri.StreamImages(r, namespacedStream[runtimeapi.StreamImagesResponse]{to}))
}

// PullImage takes an image that the host has from there, and asks a registry
// for all others. That holds for imagePullPolicy Always too: who loads an
// image on the host wants that one. What comes from a registry is kept on the
// host for other nodes that pull the same.
func (s *service) PullImage(ctx context.Context, r *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	id, err := s.images.adopt(ctx, r.GetImage().GetImage())
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	if id != "" {
		return &runtimeapi.PullImageResponse{ImageRef: id}, nil
	}
	var response *runtimeapi.PullImageResponse
	err = s.pulls.once(ctx, r.GetImage().GetImage(), func() (err error) {
		response, err = call(ctx, s.cri.PullImage, r)
		return err
	})
	return response, err
}

// RemoveImage removes an image from this node: the host's store keeps it, and
// the node shows it again when it is pulled or loaded again.
func (s *service) RemoveImage(ctx context.Context, r *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	if err := s.images.hide(r.GetImage().GetImage()); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return call(ctx, s.cri.RemoveImage, r)
}
