package seed

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
)

//go:embed zz_generated.seed.bin
var recorded []byte

// Object is one key of etcd.
type Object struct {
	Key   string
	Value []byte
}

// Placeholders of a recording. They have the length of what replaces them, so
// that no length field around them changes: the seconds of a protobuf
// Timestamp have five bytes from 1978 to 3058.
const (
	UID         = "00000000-0000-4000-8000-000000000000"
	unixSeconds = 1_000_000_000
)

// Time is the placeholder of every time.
var Time = time.Unix(unixSeconds, 0).UTC()

// Objects returns the recording, with its placeholders.
func Objects() ([]Object, error) { return Decode(recorded) }

// Write needs an etcd that takes as many operations in one transaction as
// there are objects, which by default it does not (storage.MaxTxnOps). It puts the objects into an etcd that has no key below prefix, all or
// none of them, and with them further ones; otherwise it does nothing. The encryption of a key's value is
// none of the seed's business: it holds no Secrets.
func Write(ctx context.Context, kv clientv3.KV, prefix string, now time.Time, further ...Object) error {
	have, err := kv.Get(ctx, prefix+"/", clientv3.WithPrefix(), clientv3.WithLimit(1), clientv3.WithKeysOnly())
	if err != nil {
		return fmt.Errorf("look into etcd: %w", err)
	}
	if len(have.Kvs) > 0 {
		return nil
	}
	objects, err := Objects()
	if err != nil {
		return err
	}
	var (
		absent []clientv3.Cmp
		puts   []clientv3.Op
	)
	for _, object := range append(objects, further...) {
		key := prefix + object.Key
		absent = append(absent, clientv3.Compare(clientv3.CreateRevision(key), "=", 0))
		puts = append(puts, clientv3.OpPut(key, string(individual(object.Value, now))))
	}
	// Who else starts on this etcd may win; then there is nothing to do.
	if _, err := kv.Txn(ctx).If(absent...).Then(puts...).Commit(); err != nil {
		return fmt.Errorf("write bootstrap objects: %w", err)
	}
	return nil
}

// individual gives an object its own UID and the time.
func individual(value []byte, now time.Time) []byte {
	value = bytes.ReplaceAll(value, []byte(UID), []byte(uuid.NewString()))
	value = bytes.ReplaceAll(value, Seconds(Time), Seconds(now))
	return bytes.ReplaceAll(value, Text(Time), Text(now))
}

// Seconds is a time in an object stored as protobuf.
func Seconds(t time.Time) []byte { return binary.AppendUvarint(nil, uint64(t.Unix())) }

// Text is a time in an object stored as JSON.
func Text(t time.Time) []byte { return []byte(t.UTC().Format(time.RFC3339)) }

// Encode is the form of the recording: key and value of every object, each
// after its length as a varint, in the order of the keys.
func Encode(objects []Object) []byte {
	slices.SortFunc(objects, func(a, b Object) int { return bytes.Compare([]byte(a.Key), []byte(b.Key)) })
	var out []byte
	for _, object := range objects {
		for _, part := range [][]byte{[]byte(object.Key), object.Value} {
			out = binary.AppendUvarint(out, uint64(len(part)))
			out = append(out, part...)
		}
	}
	return out
}

// Decode reads what Encode wrote.
func Decode(data []byte) ([]Object, error) {
	var objects []Object
	for len(data) > 0 {
		var parts [2][]byte
		for i := range parts {
			length, n := binary.Uvarint(data)
			if n <= 0 || uint64(len(data)-n) < length {
				return nil, errors.New("bootstrap objects: the recording is cut off")
			}
			parts[i], data = data[n:n+int(length)], data[n+int(length):]
		}
		objects = append(objects, Object{string(parts[0]), parts[1]})
	}
	return objects, nil
}
