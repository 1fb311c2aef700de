package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// fakeRegistry writes pause:testing in the layout that agnhost's
// fake-registry-server serves (test/images/agnhost/fakeregistryserver):
// <repo>/{manifests,blobs}/sha256/<2 digits>/<digest>/data, and a file per
// tag that holds the digest.
func (b *builder) fakeRegistry(w *tar.Writer) error {
	img, err := b.build(context.Background(), pause("registry.k8s.io/pause:testing"))
	if err != nil {
		return err
	}
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{
		Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}},
	})
	manifest, err := index.RawManifest()
	if err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	const repo = "var/registry/pause"
	put := func(kind string, h v1.Hash, content []byte) error {
		return addFile(w, repo+"/"+kind+"/"+h.Algorithm+"/"+h.Hex[:2]+"/"+h.Hex+"/data", content, 0o644, 0)
	}
	if err := put("manifests", digest, manifest); err != nil {
		return err
	}
	if err := addFile(w, repo+"/manifests/testing", []byte(digest.String()+"\n"), 0o644, 0); err != nil {
		return err
	}
	var parsed v1.IndexManifest
	if err := json.Unmarshal(manifest, &parsed); err != nil {
		return err
	}
	raw, err := img.RawManifest()
	if err != nil {
		return err
	}
	if err := put("manifests", parsed.Manifests[0].Digest, raw); err != nil {
		return err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	configName, err := img.ConfigName()
	if err != nil {
		return err
	}
	if err := put("blobs", configName, config); err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		if err := putLayer(l, put); err != nil {
			return err
		}
	}
	return nil
}

func putLayer(l v1.Layer, put func(string, v1.Hash, []byte) error) error {
	d, err := l.Digest()
	if err != nil {
		return err
	}
	r, err := l.Compressed()
	if err != nil {
		return err
	}
	defer r.Close()
	content, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return put("blobs", d, content)
}
