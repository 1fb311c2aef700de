package v1alpha1

import (
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// reader fills a Cluster from YAML nodes. It works on nodes, and not on a
// decoder with strict fields, for the path of every error, and so that a label
// 1.10 stays "1.10".
type reader struct {
	// kinds says that the file is of kind's version, where the fields marked
	// `skiff:"only"` do not exist.
	kinds bool
	errs  field.ErrorList
	// count is the number of values read so far: aliases of aliases make a
	// small file huge.
	count int
}

// maxValues is far above what a cluster of hundreds of nodes needs.
const maxValues = 100_000

type pair struct{ key, value *yaml.Node }

// pairs lists the fields of a mapping, those of merge keys (`<<`) last and
// only where the mapping does not have them itself.
func pairs(n *yaml.Node) []pair {
	var own, merged []pair
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Tag != "!!merge" {
			own = append(own, pair{k, v})
			continue
		}
		for _, from := range mergeSources(v) {
			for j := 0; j+1 < len(from.Content); j += 2 {
				merged = append(merged, pair{from.Content[j], from.Content[j+1]})
			}
		}
	}
	for _, m := range merged {
		if !slices.ContainsFunc(own, func(p pair) bool { return p.key.Value == m.key.Value }) {
			own = append(own, m)
		}
	}
	return own
}

func mergeSources(v *yaml.Node) []*yaml.Node {
	v = target(v)
	if v.Kind == yaml.MappingNode {
		return []*yaml.Node{v}
	}
	var from []*yaml.Node
	if v.Kind == yaml.SequenceNode {
		for _, e := range v.Content {
			if e = target(e); e.Kind == yaml.MappingNode {
				from = append(from, e)
			}
		}
	}
	return from
}

// target follows an alias.
func target(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

func (r *reader) read(n *yaml.Node, c *Cluster) {
	r.fields(n, reflect.ValueOf(c).Elem(), nil)
}

// value reads n into v. Depth is bounded by v's type, so that an alias to its
// own ancestor ends as a type error.
func (r *reader) value(n *yaml.Node, v reflect.Value, path *field.Path) {
	n = target(n)
	if r.count++; isNull(n) || r.count > maxValues {
		if r.count == maxValues+1 {
			r.errs = append(r.errs, field.Forbidden(path, "the file holds more than "+strconv.Itoa(maxValues)+" values"))
		}
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		r.value(n, v.Elem(), path)
	case reflect.Struct:
		if r.want(n, yaml.MappingNode, "fields (a mapping)", path) {
			r.fields(n, v, path)
		}
	case reflect.Map:
		if r.want(n, yaml.MappingNode, "a mapping of names to values", path) {
			r.entries(n, v, path)
		}
	case reflect.Slice:
		if r.want(n, yaml.SequenceNode, "a list", path) {
			r.elements(n, v, path)
		}
	default:
		if r.want(n, yaml.ScalarNode, scalarName(v.Kind()), path) {
			r.scalar(n, v, path)
		}
	}
}

func (r *reader) want(n *yaml.Node, kind yaml.Kind, what string, path *field.Path) bool {
	if n.Kind == kind {
		return true
	}
	r.errs = append(r.errs, typeError(path, n, what))
	return false
}

func (r *reader) fields(n *yaml.Node, v reflect.Value, path *field.Path) {
	seen := map[string]bool{}
	for _, p := range pairs(n) {
		name := p.key.Value
		at := child(path, name)
		if seen[name] {
			r.errs = append(r.errs, field.Duplicate(at, omitted(p.value)))
			continue
		}
		seen[name] = true
		f, ok := fieldNamed(v.Type(), name)
		if reason := refused[v.Type().Name()][name]; reason != "" {
			if !isEmpty(target(p.value)) {
				r.errs = append(r.errs, field.Forbidden(at, reason))
			}
			continue
		}
		if !ok {
			r.errs = append(r.errs, field.Forbidden(at, "unknown field"+suggest(v.Type(), name)))
			continue
		}
		if r.kinds && f.Tag.Get("skiff") == "only" {
			r.errs = append(r.errs, field.Forbidden(at, "not a field of "+KindAPIVersion+"; write apiVersion: "+APIVersion+" to use it"))
			continue
		}
		r.value(p.value, v.FieldByIndex(f.Index), at)
	}
}

func (r *reader) entries(n *yaml.Node, v reflect.Value, path *field.Path) {
	v.Set(reflect.MakeMap(v.Type()))
	for _, p := range pairs(n) {
		at := path.Key(p.key.Value)
		if p.key.Kind != yaml.ScalarNode {
			r.errs = append(r.errs, typeError(path, p.key, "names as keys"))
			continue
		}
		key := reflect.ValueOf(p.key.Value)
		if v.MapIndex(key).IsValid() {
			r.errs = append(r.errs, field.Duplicate(at, omitted(p.value)))
			continue
		}
		e := reflect.New(v.Type().Elem()).Elem()
		r.value(p.value, e, at)
		v.SetMapIndex(key, e)
	}
}

func (r *reader) elements(n *yaml.Node, v reflect.Value, path *field.Path) {
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, e := range n.Content {
		if r.count > maxValues {
			return
		}
		if isNull(target(e)) {
			r.errs = append(r.errs, field.Required(path.Index(i), "the entry is empty"))
			continue
		}
		r.value(e, v.Index(i), path.Index(i))
	}
}

// scalar takes the text as written for strings, so that `cpu: 4` and a label
// `1.10` need no quotes; booleans and numbers follow YAML.
func (r *reader) scalar(n *yaml.Node, v reflect.Value, path *field.Path) {
	if v.Kind() == reflect.String {
		v.SetString(n.Value)
		return
	}
	quoted := n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0
	// The decoder would cut 80.5 down to 80.
	fraction := v.Kind() != reflect.Bool && n.ShortTag() != "!!int"
	if quoted || fraction || n.Decode(v.Addr().Interface()) != nil {
		r.errs = append(r.errs, typeError(path, n, scalarName(v.Kind())))
	}
}

func scalarName(k reflect.Kind) string {
	switch k {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	default:
		return "a whole number of 32 bits"
	}
}

func typeError(path *field.Path, n *yaml.Node, want string) *field.Error {
	return field.TypeInvalid(path, omitted(n), "want "+want+", have "+describe(n))
}

// omitted is the value to show for n in an error: short scalars only.
func omitted(n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode || len(n.Value) > 60 {
		return "…"
	}
	return n.Value
}

func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.ShortTag() == "!!str":
		return "a string"
	case n.ShortTag() == "!!bool":
		return "true or false"
	case n.ShortTag() == "!!int", n.ShortTag() == "!!float":
		return "a number"
	default:
		return "a plain value"
	}
}

// isEmpty says that a refused field was given, but asks for nothing.
func isEmpty(n *yaml.Node) bool {
	return isNull(n) || n.Kind != yaml.ScalarNode && len(n.Content) == 0 ||
		n.ShortTag() == "!!bool" && strings.EqualFold(n.Value, "false")
}

func child(path *field.Path, name string) *field.Path {
	if path == nil {
		return field.NewPath(name)
	}
	return path.Child(name)
}

func fieldNamed(t reflect.Type, name string) (reflect.StructField, bool) {
	for _, f := range reflect.VisibleFields(t) {
		if jsonName(f) == name {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

// jsonName is the name in the file, or empty for fields that are in no file.
func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	if name == "-" {
		return ""
	}
	return name
}
