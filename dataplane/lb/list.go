package lb

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

// readService is a Service of a list, already read.
type readService struct {
	item
	service *service // nil: it has no address of its own
}

// readSlice is an EndpointSlice of a list, already read.
type readSlice struct {
	item
	of    types.NamespacedName // its Service
	slice *slice               // nil: it holds no addresses
}

// item makes a runtime.Object, which is what reflectors hand on.
type item struct{ name types.NamespacedName }

func (*item) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject is part of runtime.Object. What was read is never changed.
func (r *readService) DeepCopyObject() runtime.Object { return r }

// DeepCopyObject is part of runtime.Object. What was read is never changed.
func (r *readSlice) DeepCopyObject() runtime.Object { return r }

func (f *feed) readService(svc *corev1.Service) *readService {
	s := newService(svc)
	if s != nil && !f.reports {
		s.uid = ""
	}
	return &readService{item{types.NamespacedName{Namespace: shared(svc.Namespace), Name: svc.Name}}, s}
}

func (f *feed) readSlice(es *discoveryv1.EndpointSlice) *readSlice {
	namespace := shared(es.Namespace)
	return &readSlice{
		item:  item{types.NamespacedName{Namespace: namespace, Name: es.Name}},
		of:    types.NamespacedName{Namespace: namespace, Name: es.Labels[discoveryv1.LabelServiceName]},
		slice: newSlice(es),
	}
}

// message is a kind of object as the API server encodes it.
type message[T any] interface {
	*T
	Unmarshal([]byte) error
}

// list reads each object of a list as it comes: neither the whole answer nor
// all of its objects are ever in memory, and there is little left to do after
// the last byte.
func list[T any, M message[T], R runtime.Object](ctx context.Context, client rest.Interface, resource string, o metav1.ListOptions, read func(M) R) (runtime.Object, error) {
	body, err := client.Get().Resource(resource).VersionedParams(&o, scheme.ParameterCodec).
		SetHeader("Accept", runtime.ContentTypeProtobuf).Stream(ctx)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	out := &internalversion.List{}
	err = readList(body, &out.ListMeta, each(func(object M) { out.Items = append(out.Items, read(object)) }))
	if err != nil {
		return nil, fmt.Errorf("read list of %s: %w", resource, err)
	}
	return out, nil
}

// each decodes items one after the other in the same place: read must not keep
// what it is given.
func each[T any, M message[T]](read func(M)) func([]byte) error {
	object := new(T)
	var trim trimmer
	return func(raw []byte) error {
		*object = *new(T)
		if err := M(object).Unmarshal(trim.trim(raw)); err != nil {
			return err
		}
		read(object)
		return nil
	}
}

// protobufMagic begins every answer of the API server in protobuf.
const protobufMagic = "k8s\x00"

// Numbers of fields: of runtime.Unknown, which wraps every answer, and of
// lists.
const (
	unknownRaw   protowire.Number = 2
	listMetadata protowire.Number = 1
	listItems    protowire.Number = 2
)

// readList takes an encoded list apart and hands every item to each, which
// must not keep it.
func readList(from io.Reader, meta *metav1.ListMeta, each func([]byte) error) error {
	d := decoder{in: bufio.NewReaderSize(from, 64<<10)}
	magic, err := d.next(uint64(len(protobufMagic)))
	if err != nil {
		return err
	}
	if string(magic) != protobufMagic {
		return fmt.Errorf("it begins with %q: no protobuf of an API server", magic)
	}
	for {
		field, size, err := d.field()
		if err != nil {
			return err
		}
		if field == unknownRaw {
			return d.items(size, meta, each)
		}
		if _, err := d.next(size); err != nil {
			return err
		}
	}
}

// decoder reads fields that say how long they are, as all of a list do.
type decoder struct {
	in  *bufio.Reader
	buf []byte
	// read counts the bytes.
	read uint64
}

// items reads a list of size bytes.
func (d *decoder) items(size uint64, meta *metav1.ListMeta, each func([]byte) error) error {
	for end := d.read + size; d.read < end; {
		field, size, err := d.field()
		if err != nil {
			return err
		}
		raw, err := d.next(size)
		if err != nil {
			return err
		}
		switch field {
		case listMetadata:
			err = meta.Unmarshal(raw)
		case listItems:
			err = each(raw)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *decoder) field() (protowire.Number, uint64, error) {
	tag, err := binary.ReadUvarint(d)
	if err != nil {
		return 0, 0, cut(err)
	}
	field, kind := protowire.DecodeTag(tag)
	if kind != protowire.BytesType {
		return 0, 0, fmt.Errorf("field %d is of wire type %d", field, kind)
	}
	size, err := binary.ReadUvarint(d)
	return field, size, cut(err)
}

// maxItem is more than the API server lets an object be (1.5 MiB).
const maxItem = 16 << 20

// next are the next size bytes, until next is called again.
func (d *decoder) next(size uint64) ([]byte, error) {
	if size > maxItem {
		return nil, fmt.Errorf("an item of %d bytes", size)
	}
	d.buf = slices.Grow(d.buf[:0], int(size))[:size]
	n, err := io.ReadFull(d.in, d.buf)
	d.read += uint64(n)
	return d.buf, cut(err)
}

// ReadByte is part of io.ByteReader.
func (d *decoder) ReadByte() (byte, error) {
	b, err := d.in.ReadByte()
	if err == nil {
		d.read++
	}
	return b, err
}

// cut is the error where a list ends before its end.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
