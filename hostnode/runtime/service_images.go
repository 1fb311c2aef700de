package runtime

import (
	"context"
	"slices"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// streamed is how many images go in one message, as of containerd.
const streamed = 5000

// The image calls see to it first that the node knows the images of the host's
// store that the call is about.

func (s *service) ImageStatus(ctx context.Context, r *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	if err := s.images.reveal(ctx, r.GetImage().GetImage()); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return call(ctx, s.cri.ImageStatus, r)
}

// ListImages shows images of the host's store without taking them: what a node
// never uses costs it nothing.
func (s *service) ListImages(ctx context.Context, r *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	waiting, err := s.images.waiting(ctx)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	response, err := call(ctx, s.cri.ListImages, r)
	if err != nil {
		return nil, err
	}
	response.Images = mergeImages(response.Images, waiting)
	return response, nil
}

// StreamImages is ListImages in parts.
func (s *service) StreamImages(r *runtimeapi.StreamImagesRequest, to grpc.ServerStreamingServer[runtimeapi.StreamImagesResponse]) error {
	all, err := s.ListImages(to.Context(), &runtimeapi.ListImagesRequest{Filter: r.GetFilter()})
	if err != nil {
		return err
	}
	for part := range slices.Chunk(all.Images, streamed) {
		if err := to.Send(&runtimeapi.StreamImagesResponse{Images: part}); err != nil {
			return err
		}
	}
	return nil
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
