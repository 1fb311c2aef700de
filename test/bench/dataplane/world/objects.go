package world

import (
	"context"
	"fmt"
	"net/netip"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const namespace = "default"

// Port is every Service's port.
const Port = 80

// Service is the name of a Service, counted from 0.
func Service(i int) string { return fmt.Sprintf("service-%05d", i) }

// Address is a Service's ClusterIP.
func Address(i int) netip.AddrPort {
	i += 256 // the first ones are for API server and DNS
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), Port)
}

// AddNode makes a Node, or finds it.
func (w *World) AddNode(ctx context.Context, name string, ip netip.Addr) error {
	n, err := w.Client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("create Node %s: %w", name, err)
	}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip.String()}, {Type: corev1.NodeHostName, Address: name}}
	if _, err := w.Client.CoreV1().Nodes().UpdateStatus(ctx, n, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("address of Node %s: %w", name, err)
	}
	return nil
}

// Grow adds Services until there are so many. endpoints says which backends
// each one has.
func (w *World) Grow(ctx context.Context, to int, endpoints func(i int) []netip.AddrPort) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(32)
	for ; w.services < to; w.services++ {
		i := w.services
		group.Go(func() error { return w.add(ctx, i, endpoints(i)) })
	}
	return group.Wait()
}

func (w *World) add(ctx context.Context, i int, backends []netip.AddrPort) error {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: Service(i)},
		Spec: corev1.ServiceSpec{
			ClusterIP: Address(i).Addr().String(),
			Ports:     []corev1.ServicePort{{Name: "p", Port: Port, Protocol: corev1.ProtocolTCP}},
		},
	}
	if _, err := w.Client.CoreV1().Services(namespace).Create(ctx, svc, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create Service: %w", err)
	}
	if _, err := w.Client.DiscoveryV1().EndpointSlices(namespace).Create(ctx, slice(i, backends), metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create EndpointSlice: %w", err)
	}
	return nil
}

// SetEndpoints replaces a Service's backends.
func (w *World) SetEndpoints(ctx context.Context, i int, backends []netip.AddrPort) error {
	if _, err := w.Client.DiscoveryV1().EndpointSlices(namespace).Update(ctx, slice(i, backends), metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update EndpointSlice: %w", err)
	}
	return nil
}

// slice has every backend; all of them listen on the same port.
func slice(i int, backends []netip.AddrPort) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: Service(i), Labels: map[string]string{discoveryv1.LabelServiceName: Service(i)}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{},
	}
	for _, b := range backends {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{b.Addr().String()}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)},
		})
		s.Ports = []discoveryv1.EndpointPort{{Name: new("p"), Port: new(int32(b.Port())), Protocol: new(corev1.ProtocolTCP)}}
	}
	return s
}
