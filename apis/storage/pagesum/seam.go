package pagesum

import (
	"errors"
	"reflect"
	"unsafe"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/storage/backend"
)

// writer is how bbolt writes to its file.
type writer = func(b []byte, offset int64) (int, error)

// seam is the database of an etcd backend and the function that it writes
// with. Neither is exported: they are found by reflection, in the fields
// backend.db and DB.ops.writeAt, which bbolt has for its own tests. The caller
// holds the backend's batch transaction.
func seam(of backend.Backend) (*bolt.DB, *writer, error) {
	v := reflect.ValueOf(of)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return nil, nil, errors.New("etcd's backend is not what it was")
	}
	field := v.Elem().FieldByName("db")
	if !field.IsValid() || field.Type() != reflect.TypeFor[*bolt.DB]() || field.IsNil() {
		return nil, nil, errors.New("etcd's backend has no database where it had one")
	}
	db := *(**bolt.DB)(unsafe.Pointer(field.UnsafeAddr()))
	ops := reflect.ValueOf(db).Elem().FieldByName("ops")
	if !ops.IsValid() || ops.Kind() != reflect.Struct {
		return nil, nil, errors.New("bbolt does not write as it did")
	}
	write := ops.FieldByName("writeAt")
	if !write.IsValid() || write.Type() != reflect.TypeFor[writer]() || write.IsNil() {
		return nil, nil, errors.New("bbolt does not write as it did")
	}
	return db, (*writer)(unsafe.Pointer(write.UnsafeAddr())), nil
}
