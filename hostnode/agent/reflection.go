package agent

import (
	"fmt"
	"reflect"
	"unsafe"
)

// Some of upstream's waits can be taken away only by setting a field that has
// no exported name. All of that goes through this file: a field is found by
// its name and its exact type, or not at all, and a seam that does not find
// its field leaves upstream as it is.

// unexported is the settable field called name of the struct that pointer
// points to; pointer may be an interface that holds such a pointer.
func unexported[T any](pointer any, name string) (*T, error) {
	v := reflect.ValueOf(pointer)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return nil, fmt.Errorf("find field %s: %T is no pointer to a struct", name, pointer)
	}
	f := v.Elem().FieldByName(name)
	if !f.IsValid() {
		return nil, fmt.Errorf("find field %s: %T has none", name, pointer)
	}
	if want := reflect.TypeFor[T](); f.Type() != want {
		return nil, fmt.Errorf("find field %s: %T has it as %s, not %s", name, pointer, f.Type(), want)
	}
	return (*T)(unsafe.Pointer(f.UnsafeAddr())), nil
}
