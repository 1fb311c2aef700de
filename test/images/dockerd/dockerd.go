// Package dockerd stands in for a Docker daemon: as much of the Engine's API
// as reading images takes, on a unix socket, over images without a use.
package dockerd

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Serve answers at path until ctx ends, for images of the given names; it
// returns the value for DOCKER_HOST.
func Serve(ctx context.Context, path string, images ...string) (host string, err error) {
	have := map[string]v1.Image{}
	for _, image := range images {
		const layer, layers = 1 << 10, 2
		if have[image], err = random.Image(layer, layers); err != nil {
			return "", err
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: api(have)}
	context.AfterFunc(ctx, func() { server.Close() })
	go func() { _ = server.Serve(l) }() // until ctx ends
	return "unix://" + path, nil
}

// api is GET /images/NAME/json and GET /images/get?names=NAME&names=…, whose
// refusals do not name the image, as Docker's.
func api(have map[string]v1.Image) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /images/{path...}", func(w http.ResponseWriter, r *http.Request) {
		path := r.PathValue("path")
		if path == "get" {
			export(w, have, r.URL.Query()["names"])
			return
		}
		var image string
		if n := len(path) - len("/json"); n > 0 && path[n:] == "/json" {
			image = path[:n]
		}
		if have[image] == nil {
			refuse(w, http.StatusNotFound, "No such image: "+image)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"RepoTags": []string{image}})
	})
	return mux
}

func export(w http.ResponseWriter, have map[string]v1.Image, names []string) {
	chosen := map[name.Reference]v1.Image{}
	for _, image := range names {
		// Archives say a:v1, not index.docker.io/library/a:v1.
		tag, err := name.NewTag(image)
		if err != nil || have[image] == nil {
			refuse(w, http.StatusNotFound, "reference does not exist")
			return
		}
		chosen[tag] = have[image]
	}
	w.Header().Set("Content-Type", "application/x-tar")
	if err := tarball.MultiRefWrite(chosen, w); err != nil {
		panic(http.ErrAbortHandler)
	}
}

func refuse(w http.ResponseWriter, code int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	fmt.Fprintf(w, `{"message":%q}`, message)
}
