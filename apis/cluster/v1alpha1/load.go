package v1alpha1

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// MaxFileSize bounds a config file: larger input is no config file.
const MaxFileSize = 1 << 20

// InvalidError says everything that is wrong with a config file or a Cluster.
type InvalidError struct {
	Errs field.ErrorList
}

// Error puts each field on a line of its own.
func (e *InvalidError) Error() string {
	lines := make([]string, 0, len(e.Errs))
	for _, err := range e.Errs {
		lines = append(lines, line(err))
	}
	if len(lines) == 1 {
		return lines[0]
	}
	return fmt.Sprintf("%d fields are wrong:\n  %s", len(lines), strings.Join(lines, "\n  "))
}

// line is upstream's wording, except that refusals, which explain themselves,
// do without the word "Forbidden".
func line(err *field.Error) string {
	if err.Type == field.ErrorTypeForbidden {
		return err.Field + ": " + err.Detail
	}
	return err.Error()
}

// LoadFile reads the config file at path.
func LoadFile(path string) (*Cluster, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return Read(f)
}

// Read reads a config file from r to its end.
func Read(r io.Reader) (*Cluster, error) {
	raw, err := io.ReadAll(io.LimitReader(r, MaxFileSize+1))
	if err != nil {
		return nil, err
	}
	return Load(raw)
}

// Load reads a config file of skiff.cluster/v1alpha1 or kind.x-k8s.io/v1alpha4.
// The result is of skiff's version, without defaults and not validated. Fields
// that do not exist, have the wrong type or that skiff cannot have make an
// *InvalidError.
func Load(raw []byte) (*Cluster, error) {
	if len(raw) > MaxFileSize {
		return nil, fmt.Errorf("larger than %d bytes: not a cluster config file", MaxFileSize)
	}
	doc, err := document(raw)
	if err != nil {
		return nil, err
	}
	version, err := typeOf(doc)
	if err != nil {
		return nil, err
	}
	c := &Cluster{}
	r := &reader{kinds: version == KindAPIVersion}
	r.read(doc, c)
	if len(r.errs) > 0 {
		return nil, &InvalidError{Errs: r.errs}
	}
	if r.kinds {
		fromKind(c)
	}
	c.APIVersion = APIVersion
	return c, nil
}

// document returns the only document of raw.
func document(raw []byte) (*yaml.Node, error) {
	var doc *yaml.Node
	for d := yaml.NewDecoder(bytes.NewReader(raw)); ; {
		var n yaml.Node
		err := d.Decode(&n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err // "yaml: line 1: …"
		}
		if len(n.Content) == 0 || isNull(n.Content[0]) {
			continue
		}
		if doc != nil {
			return nil, fmt.Errorf("line %d: a second document: a config file holds one cluster", n.Content[0].Line)
		}
		doc = n.Content[0]
	}
	if doc == nil {
		return nil, &InvalidError{Errs: field.ErrorList{
			field.Required(field.NewPath("apiVersion"), "the file is empty; start with "+APIVersion+" or "+KindAPIVersion)}}
	}
	if doc.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("line %d: %s, not fields of a cluster", doc.Line, describe(doc))
	}
	return doc, nil
}

// typeOf checks kind and apiVersion before anything else: in a file of another
// kind every other message would mislead.
func typeOf(doc *yaml.Node) (string, error) {
	var kind, version string
	for _, p := range pairs(doc) {
		switch p.key.Value {
		case "kind":
			kind = p.value.Value
		case "apiVersion":
			version = p.value.Value
		}
	}
	var errs field.ErrorList
	versions := []string{APIVersion, KindAPIVersion}
	switch version {
	case APIVersion, KindAPIVersion:
	case "":
		errs = append(errs, field.Required(field.NewPath("apiVersion"), strings.Join(versions, " or ")))
	default:
		errs = append(errs, field.NotSupported(field.NewPath("apiVersion"), version, versions))
	}
	switch kind {
	case Kind:
	case "":
		errs = append(errs, field.Required(field.NewPath("kind"), Kind))
	default:
		errs = append(errs, field.NotSupported(field.NewPath("kind"), kind, []string{Kind}))
	}
	if len(errs) > 0 {
		return "", &InvalidError{Errs: errs}
	}
	return version, nil
}

// fromKind translates the values that mean something else in kind's files:
// there, port -1 leaves the choice to the container engine.
func fromKind(c *Cluster) {
	if c.Networking.APIServerPort == -1 {
		c.Networking.APIServerPort = 0
	}
	for i := range c.Nodes {
		for j := range c.Nodes[i].ExtraPortMappings {
			if p := &c.Nodes[i].ExtraPortMappings[j]; p.HostPort == -1 {
				p.HostPort = 0
			}
		}
	}
}

// refused are the fields of kind's v1alpha4 that skiff's Cluster does not
// have, by the Go type that would hold them, with reason and mend.
var refused = map[string]map[string]string{
	"Cluster": {
		"kubeadmConfigPatches":            noKubeadm,
		"kubeadmConfigPatchesJSON6902":    noKubeadm,
		"containerdConfigPatches":         noContainerdConfig,
		"containerdConfigPatchesJSON6902": noContainerdConfig,
	},
	"Node": {
		"kubeadmConfigPatches":         noKubeadm,
		"kubeadmConfigPatchesJSON6902": noKubeadm,
	},
	"Mount": {
		"selinuxRelabel": "skiff does not relabel files for SELinux: its nodes are not confined by it; remove the field",
	},
}

const (
	noKubeadm = "skiff's nodes are not set up by kubeadm; remove the field and use featureGates, runtimeConfig, " +
		"auditPolicy or the node's labels and resources instead"
	noContainerdConfig = "skiff's containerd is built in and reads no config file; remove the field " +
		"(images come in by `skiff load image-archive`, other OCI runtimes by runtimeHandlers, " +
		"registries' mirrors by extraMounts at /etc/containerd/certs.d)"
)
