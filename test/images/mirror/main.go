// Command mirror serves the images of a docker archive as a registry that
// answers for their upstream hosts: what specs with imagePullPolicy Always
// pull from.
//
//	mirror -listen ADDRESS:PORT ARCHIVE
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:5000", "address to serve on")
	flag.Parse()
	if flag.NArg() != 1 {
		log.Fatal("usage: mirror -listen ADDRESS:PORT ARCHIVE")
	}
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	if err := fill(handler, flag.Arg(0)); err != nil {
		log.Fatal(err)
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	log.Print("serving on ", l.Addr())
	log.Fatal(http.Serve(l, handler))
}

// fill pushes every image of the archive under its repository without host.
func fill(handler http.Handler, archive string) error {
	s := httptest.NewServer(handler)
	defer s.Close()
	open := func() (io.ReadCloser, error) { return os.Open(archive) }
	manifest, err := tarball.LoadManifest(open)
	if err != nil {
		return fmt.Errorf("archive %s: %w", archive, err)
	}
	for _, d := range manifest {
		for _, full := range d.RepoTags {
			tag, err := name.NewTag(full)
			if err != nil {
				return err
			}
			img, err := tarball.Image(open, &tag)
			if err != nil {
				return fmt.Errorf("image %s: %w", full, err)
			}
			host := strings.TrimPrefix(s.URL, "http://")
			target, err := name.NewTag(host+"/"+tag.RepositoryStr()+":"+tag.TagStr(), name.Insecure)
			if err != nil {
				return err
			}
			if err := remote.Write(target, img); err != nil {
				return fmt.Errorf("image %s: %w", full, err)
			}
		}
	}
	return nil
}
