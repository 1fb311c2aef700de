package runtime

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/hostnode/runtime/imagestore"
)

// waiting are the images of the host's store that this node has neither taken
// nor removed, as CRI would list them.
func (a *adopter) waiting(ctx context.Context) ([]*runtimeapi.Image, error) {
	shared, err := a.list()
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var waiting []*runtimeapi.Image
	for _, image := range shared {
		at, known := a.adopted[image.Name]
		switch {
		case a.hides(image) || known && at.Equal(image.LoadedAt):
			continue
		case known:
			// The name has moved on from an image that containerd lists.
			err = a.take(ctx, image)
		default:
			var listed *runtimeapi.Image
			if listed, err = a.show(image); err == nil {
				waiting = append(waiting, listed)
			}
		}
		// It may be deleted from the store just now; and one image is no
		// reason to hide the others.
		if err != nil {
			a.log.Warn("image of the host's store left out", "error", err)
		}
	}
	return waiting, nil
}

// show describes an image as containerd's CRI service does once it has it.
func (a *adopter) show(image imagestore.Image) (*runtimeapi.Image, error) {
	own, byDigest, err := references(image)
	if err != nil {
		return nil, err
	}
	user, err := a.user(image)
	if err != nil {
		return nil, fmt.Errorf("configuration of image %s: %w", image.Name, err)
	}
	listed := &runtimeapi.Image{Id: image.ID.String(), RepoDigests: []string{byDigest.String()}, Size: uint64(image.Size)}
	if _, ok := own.(reference.Tagged); ok {
		listed.RepoTags = []string{own.String()}
	}
	if uid, err := strconv.ParseInt(user, 10, 64); err == nil {
		listed.Uid = &runtimeapi.Int64Value{Value: uid}
	} else {
		listed.Username = user
	}
	return listed, nil
}

// user is whom the image's configuration names, without a group.
func (a *adopter) user(image imagestore.Image) (string, error) {
	data, err := os.ReadFile(a.shared.Blob(image.ID))
	if err != nil {
		return "", err
	}
	var config ocispec.Image
	if err := json.Unmarshal(data, &config); err != nil {
		return "", err
	}
	user, _, _ := strings.Cut(config.Config.User, ":")
	return user, nil
}

// mergeImages adds images to a list that may have them by other names.
func mergeImages(listed, more []*runtimeapi.Image) []*runtimeapi.Image {
	for _, image := range more {
		at := slices.IndexFunc(listed, func(l *runtimeapi.Image) bool { return l.Id == image.Id })
		if at < 0 {
			listed = append(listed, image)
			continue
		}
		listed[at].RepoTags = sets.List(sets.New(listed[at].RepoTags...).Insert(image.RepoTags...))
		listed[at].RepoDigests = sets.List(sets.New(listed[at].RepoDigests...).Insert(image.RepoDigests...))
	}
	return listed
}
