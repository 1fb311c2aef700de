package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
)

// execs runs a command in a Pod that does nothing else.
func execs(ctx context.Context, client kubernetes.Interface, config *rest.Config, _ subject, got sample) error {
	config, stop, err := dialled(config)
	if err != nil {
		return err
	}
	defer stop()
	direct, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	p := onWorker(pausePod("exec", false))
	p.Spec.Containers[0].Image = agnhostImage
	if _, err := client.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := untilPods(ctx, client, "pod=exec", func(n int) bool { return n == 1 }); err != nil {
		return err
	}
	request := direct.CoreV1().RESTClient().Post().Resource("pods").Namespace("default").Name(p.Name).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: []string{"echo", "there"}, Stdout: true}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(config, http.MethodGet, request.URL().String())
	if err != nil {
		return err
	}
	var all []float64
	for range 10 {
		var out strings.Builder
		begin := time.Now()
		if err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out}); err != nil {
			return fmt.Errorf("exec: %w", err)
		}
		all = append(all, milliseconds(time.Since(begin)))
		if out.String() != "there\n" {
			return fmt.Errorf("exec printed %q", out.String())
		}
	}
	got["exec"] = median(all)
	return client.CoreV1().Pods("default").Delete(ctx, p.Name, metav1.DeleteOptions{})
}

// dialled is a config that needs no dialer of its own, which streams do not
// ask: a port of loopback leads to where the dialer does.
func dialled(config *rest.Config) (*rest.Config, func(), error) {
	if config.Dial == nil {
		return config, func() {}, nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	address := strings.TrimPrefix(config.Host, "https://")
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			from, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue
			}
			to, err := config.Dial(context.Background(), "tcp", address)
			if err != nil {
				from.Close() // the caller sees it
				continue
			}
			for _, ends := range [][2]net.Conn{{from, to}, {to, from}} {
				conns.Go(func() {
					_, _ = io.Copy(ends[0], ends[1]) // until either end closes
					ends[0].Close()
					ends[1].Close()
				})
			}
		}
	})
	through := rest.CopyConfig(config)
	through.Dial, through.Host = nil, "https://"+l.Addr().String()
	return through, func() { l.Close() }, nil
}
