package kubeconfig

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// sections are the lists of a kubeconfig: the name of the list, and of the
// object in each of its entries.
var sections = []struct{ list, object string }{{"clusters", "cluster"}, {"contexts", "context"}, {"users", "user"}}

// document is a kubeconfig as YAML nodes.
type document struct {
	doc  *yaml.Node
	root *yaml.Node
}

// parse reads a kubeconfig; nothing at all is an empty one.
func parse(raw []byte) (*document, error) {
	var doc yaml.Node
	err := yaml.NewDecoder(bytes.NewReader(raw)).Decode(&doc)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if len(doc.Content) == 0 || doc.Content[0].ShortTag() == "!!null" {
		root := mapping("apiVersion", scalar("v1"), "kind", scalar("Config"))
		return &document{&yaml.Node{Kind: yaml.DocumentNode, Content: []*yaml.Node{root}}, root}, nil
	}
	if doc.Content[0].Kind != yaml.MappingNode {
		return nil, fmt.Errorf("line %d: not fields", doc.Content[0].Line)
	}
	if len(doc.Content[0].Content) == 0 {
		doc.Content[0].Style = 0 // `{}` would go on in one line.
	}
	return &document{&doc, doc.Content[0]}, nil
}

// merge puts the first cluster, user and context of from into d under name,
// and makes them current.
func (d *document) merge(name string, from *document) error {
	for _, s := range sections {
		list, err := from.list(s.list)
		if err != nil {
			return err
		}
		if list == nil || len(list.Content) != 1 || get(list.Content[0], s.object) == nil {
			return fmt.Errorf("%s: want exactly one entry", s.list)
		}
		object := get(list.Content[0], s.object)
		if s.object == "context" {
			set(object, "cluster", scalar(name))
			set(object, "user", scalar(name))
		}
		if err := d.put(s.list, name, mapping(s.object, object, "name", scalar(name))); err != nil {
			return err
		}
	}
	set(d.root, "current-context", scalar(name))
	// Clients other than client-go insist on these.
	for _, f := range []string{"apiVersion", "kind"} {
		if get(d.root, f) == nil {
			set(d.root, f, scalar(map[string]string{"apiVersion": "v1", "kind": "Config"}[f]))
		}
	}
	return nil
}

// put replaces the entry called name, or appends one.
func (d *document) put(section, name string, entry *yaml.Node) error {
	list, err := d.list(section)
	if err != nil {
		return err
	}
	if list == nil {
		list = &yaml.Node{Kind: yaml.SequenceNode}
		set(d.root, section, list)
	}
	// `clusters: []` would go on in one line.
	if len(list.Content) == 0 {
		list.Style = 0
	}
	for i, e := range list.Content {
		if nameOf(e) == name {
			list.Content[i] = entry
			return nil
		}
	}
	list.Content = append(list.Content, entry)
	return nil
}

// refresh replaces the certificate and key of the user called name by those of
// from's only user, if the cluster of that name is from's. It says whether
// they differed.
func (d *document) refresh(name string, from *document) bool {
	const authority = "certificate-authority-data"
	ours, theirs := d.entry("clusters", "cluster", name), from.entry("clusters", "cluster", "")
	if value(ours, authority) == "" || value(ours, authority) != value(theirs, authority) {
		return false
	}
	have, want := d.entry("users", "user", name), from.entry("users", "user", "")
	changed := false
	for _, field := range []string{"client-certificate-data", "client-key-data"} {
		if value(have, field) == "" || value(want, field) == "" {
			return false // not a user by certificate, or not any more
		}
		changed = changed || value(have, field) != value(want, field)
	}
	if !changed {
		return false
	}
	for _, field := range []string{"client-certificate-data", "client-key-data"} {
		set(have, field, scalar(value(want, field)))
	}
	return true
}

// entry is the object of the entry called name in a list, or of the first one
// without a name; nil if there is none.
func (d *document) entry(section, object, name string) *yaml.Node {
	list, err := d.list(section)
	if err != nil || list == nil {
		return nil
	}
	for _, e := range list.Content {
		if name == "" || nameOf(e) == name {
			return get(e, object)
		}
	}
	return nil
}

// value is a field of an object that may not be there.
func value(object *yaml.Node, field string) string {
	if object == nil {
		return ""
	}
	if n := get(object, field); n != nil {
		return n.Value
	}
	return ""
}

// remove takes the entries called name out and says whether there were any.
func (d *document) remove(name string) bool {
	removed := false
	for _, s := range sections {
		list, err := d.list(s.list)
		if err != nil || list == nil {
			continue
		}
		before := len(list.Content)
		list.Content = slices.DeleteFunc(list.Content, func(e *yaml.Node) bool { return nameOf(e) == name })
		removed = removed || len(list.Content) != before
	}
	if c := get(d.root, "current-context"); c != nil && c.Value == name {
		c.SetString("")
		removed = true
	}
	return removed
}

// empty says that nothing but skiff's leftovers is in d: no entry, setting or
// comment of anybody.
func (d *document) empty() bool {
	if hasComment(d.doc) {
		return false
	}
	for i := 0; i+1 < len(d.root.Content); i += 2 {
		value := d.root.Content[i+1]
		switch d.root.Content[i].Value {
		case "apiVersion", "kind":
		case "clusters", "contexts", "users", "current-context":
			if len(value.Content) > 0 || value.Value != "" {
				return false
			}
		default:
			return false
		}
	}
	return true
}

func hasComment(n *yaml.Node) bool {
	return n.HeadComment+n.LineComment+n.FootComment != "" || slices.ContainsFunc(n.Content, hasComment)
}

// list is nil for a list that is absent or null.
func (d *document) list(section string) (*yaml.Node, error) {
	n := get(d.root, section)
	if n == nil || n.ShortTag() == "!!null" {
		return nil, nil
	}
	if n.Kind != yaml.SequenceNode {
		return nil, fmt.Errorf("line %d: %s: not a list", n.Line, section)
	}
	return n, nil
}

func (d *document) encode() ([]byte, error) {
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	e.CompactSeqIndent()
	if err := e.Encode(d.doc); err != nil {
		return nil, err
	}
	return out.Bytes(), e.Close()
}

func nameOf(entry *yaml.Node) string {
	if n := get(entry, "name"); n != nil {
		return n.Value
	}
	return ""
}

func get(m *yaml.Node, key string) *yaml.Node {
	if m.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			return m.Content[i+1]
		}
	}
	return nil
}

func set(m *yaml.Node, key string, value *yaml.Node) {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			m.Content[i+1] = value
			return
		}
	}
	m.Content = append(m.Content, scalar(key), value)
}

func mapping(pairs ...any) *yaml.Node {
	m := &yaml.Node{Kind: yaml.MappingNode}
	for i := 0; i+1 < len(pairs); i += 2 {
		set(m, pairs[i].(string), pairs[i+1].(*yaml.Node))
	}
	return m
}

func scalar(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	return n
}
