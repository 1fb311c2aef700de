// Package imagestore is the host's store of container images: an image is
// loaded and unpacked once, and every node of every cluster on the host has
// it.
//
//	index.json               the images; replaced by rename, the commit point
//	content/blobs/sha256/…   manifests, configurations and layers as they came
//	layers/<chain id>/fs     layers unpacked in overlayfs' format
//	lock                     held by whoever changes anything
//	tmp/                     what is being made
//
// Load, Keep and Delete change the store; nodes have it mounted read-only and
// read it through Reader. A node holds a shared lock on each unpacked layer that it
// uses, and what is in use is not removed: deleting an image hides it, and the
// next change of the store after its last user sweeps it away.
//
// What a node pulls from a registry is kept here too, without a name: a node
// that pulls the same has the registry's word that it may, and finds the bytes
// and the unpacked layers here. Nobody asked for such images to stay: they
// make room when the file system fills up.
//
// It does not wait for the disk: after a power failure of the host, load the
// images of the last seconds again.
package imagestore
