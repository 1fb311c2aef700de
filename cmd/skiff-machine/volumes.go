package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/skiff-k8s/skiff/apis/storage/backup"
	"github.com/skiff-k8s/skiff/controllers/hostpath"
)

// volumePrefix is where API servers keep PersistentVolumes.
const volumePrefix = "/registry/persistentvolumes/"

// printVolumes says which directories the volumes of a saved etcd have in the
// cluster's volume directory: a restored cluster is to have them all.
func printVolumes(file string) error {
	living, err := backup.Living(file, volumePrefix)
	if err != nil {
		return err
	}
	codec := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	volumes := []string{}
	for _, key := range slices.Sorted(maps.Keys(living)) {
		pv := &corev1.PersistentVolume{}
		if _, _, err := codec.Decode(living[key], nil, pv); err != nil {
			return fmt.Errorf("read %s of %s: %w", key, file, err)
		}
		if dir := hostpath.Directory(pv); dir != "" {
			volumes = append(volumes, dir)
		}
	}
	return json.NewEncoder(os.Stdout).Encode(map[string][]string{"volumes": volumes})
}
