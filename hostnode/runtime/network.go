package runtime

import (
	"context"
	"fmt"
	"reflect"
	"unsafe"

	gocni "github.com/containerd/go-cni"
)

// hookNetwork makes CRI call network instead of running CNI programs found by
// configuration files. Upstream keeps the plugins by runtime handler in the
// unexported field netPlugin; "default" is for all that name none. There is no
// fallback: a node without its network is of no use, so a change of upstream
// fails the start, and TestHookNetwork before that.
func hookNetwork(upstream cri, network gocni.CNI) error {
	server := reflect.ValueOf(upstream)
	for server.Kind() == reflect.Pointer || server.Kind() == reflect.Interface {
		server = server.Elem()
	}
	if server.Kind() != reflect.Struct {
		return fmt.Errorf("hook network: CRI plugin is a %s", server.Type())
	}
	service := server.FieldByName("RuntimeServiceServer")
	for service.IsValid() && (service.Kind() == reflect.Pointer || service.Kind() == reflect.Interface) {
		service = service.Elem()
	}
	if !service.IsValid() || service.Kind() != reflect.Struct {
		return fmt.Errorf("hook network: %s has no service in RuntimeServiceServer", server.Type())
	}
	field := service.FieldByName("netPlugin")
	if !field.IsValid() || field.Type() != reflect.TypeFor[map[string]gocni.CNI]() || !field.CanAddr() {
		return fmt.Errorf("hook network: %s has no field netPlugin of type map[string]cni.CNI", service.Type())
	}
	plugins := *(*map[string]gocni.CNI)(unsafe.Pointer(field.UnsafeAddr()))
	if _, ok := plugins["default"]; !ok {
		return fmt.Errorf("hook network: %s.netPlugin has no entry %q", service.Type(), "default")
	}
	plugins["default"] = network
	return nil
}

// loopbackOnly is a network in which pods reach nobody. CRI wants an address
// from it; the pods share one that leads nowhere.
type loopbackOnly struct{}

var _ gocni.CNI = loopbackOnly{}

func (loopbackOnly) Setup(context.Context, string, string, ...gocni.NamespaceOpts) (*gocni.Result, error) {
	return &gocni.Result{Interfaces: map[string]*gocni.Config{
		gocni.DefaultPrefix + "0": {IPConfigs: []*gocni.IPConfig{{IP: []byte{127, 0, 0, 1}}}},
	}}, nil
}

func (n loopbackOnly) SetupSerially(ctx context.Context, id, path string, opts ...gocni.NamespaceOpts) (*gocni.Result, error) {
	return n.Setup(ctx, id, path, opts...)
}

func (loopbackOnly) Remove(context.Context, string, string, ...gocni.NamespaceOpts) error { return nil }
func (loopbackOnly) Check(context.Context, string, string, ...gocni.NamespaceOpts) error  { return nil }
func (loopbackOnly) Load(...gocni.Opt) error                                              { return nil }
func (loopbackOnly) Status() error                                                        { return nil }
func (loopbackOnly) GetConfig() *gocni.ConfigResult                                       { return &gocni.ConfigResult{} }
