package lb

import "google.golang.org/protobuf/encoding/protowire"

// Numbers of fields: of every object, and of its metadata.
const (
	objectMetadata protowire.Number = 1
	managedFields  protowire.Number = 17
)

// trimmer takes out of encoded objects what nobody here asks for and what is
// most of them: who wrote which field.
type trimmer struct{ object, metadata []byte }

// trim is the object without its managed fields, until trim is called again.
// What it cannot read it leaves as it is, to the decoder's error.
func (t *trimmer) trim(object []byte) []byte {
	t.object = t.object[:0]
	ok := fields(object, func(field protowire.Number, whole, value []byte) bool {
		if field != objectMetadata {
			t.object = append(t.object, whole...)
			return true
		}
		t.metadata = t.metadata[:0]
		ok := fields(value, func(field protowire.Number, whole, _ []byte) bool {
			if field != managedFields {
				t.metadata = append(t.metadata, whole...)
			}
			return true
		})
		t.object = protowire.AppendTag(t.object, objectMetadata, protowire.BytesType)
		t.object = protowire.AppendBytes(t.object, t.metadata)
		return ok
	})
	if !ok {
		return object
	}
	return t.object
}

// fields takes a message apart: each gets a field whole, and the value of one
// that says how long it is. It says whether that, and each, went well.
func fields(message []byte, each func(field protowire.Number, whole, value []byte) bool) bool {
	for len(message) > 0 {
		field, kind, head := protowire.ConsumeTag(message)
		if head < 0 {
			return false
		}
		size := protowire.ConsumeFieldValue(field, kind, message[head:])
		if size < 0 {
			return false
		}
		var value []byte
		if kind == protowire.BytesType {
			value, _ = protowire.ConsumeBytes(message[head:])
		}
		if !each(field, message[:head+size], value) {
			return false
		}
		message = message[head+size:]
	}
	return true
}
