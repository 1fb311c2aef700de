package backup

import (
	"errors"
	"fmt"
	"strings"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"google.golang.org/protobuf/proto"
)

// Living are the values of the keys below prefix that live in the etcd saved
// at path.
func Living(path, prefix string) (living map[string][]byte, err error) {
	db, err := bolt.Open(path, 0o400, &bolt.Options{ReadOnly: true})
	if err != nil {
		return nil, fmt.Errorf("read saved etcd %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	living = map[string][]byte{}
	err = db.View(func(tx *bolt.Tx) error {
		keys := tx.Bucket(schema.Key.Name())
		if keys == nil {
			return errors.New("it has no keys")
		}
		// By revision: of one key, the last word counts.
		return keys.ForEach(func(revision, value []byte) error {
			var kv mvccpb.KeyValue
			if err := proto.Unmarshal(value, &kv); err != nil {
				return err
			}
			key := string(kv.GetKey())
			switch {
			case !strings.HasPrefix(key, prefix):
			case mvcc.IsTombstone(revision):
				delete(living, key)
			default:
				living[key] = kv.GetValue()
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read saved etcd %s: %w", path, err)
	}
	return living, nil
}
