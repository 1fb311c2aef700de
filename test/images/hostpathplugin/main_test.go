package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/klog/v2"
)

func TestRunRefuses(t *testing.T) {
	for name, args := range map[string][]string{
		"no endpoint":           {"-drivername", "d"},
		"neither mode":          {"-endpoint", "s"},
		"both modes":            {"-endpoint", "s", "-drivername", "d", "-proxy-endpoint", "tcp://:0"},
		"a proxy without tcp":   {"-endpoint", "s", "-proxy-endpoint", ":9000"},
		"a proxy on a socket":   {"-endpoint", "s", "-proxy-endpoint", "unix:///x"},
		"a flag of another one": {"-endpoint", "s", "-drivername", "d", "-ephemeral"},
	} {
		t.Chdir(t.TempDir())
		if err := run(t.Context(), args); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestDriver asks for what the suite's flags change, and mounts a volume.
func TestDriver(t *testing.T) {
	for _, tc := range []struct {
		name                      string
		flags                     []string
		attach, topology, expands bool
		limit                     int64
	}{
		{name: "plain"},
		{name: "with all", flags: []string{"--enable-attach", "--enable-topology", "--attach-limit", "2", "--node-expand-required=true"},
			attach: true, topology: true, expands: true, limit: 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			conn := start(t, tc.flags...)
			name, err := csi.NewIdentityClient(conn).GetPluginInfo(t.Context(), &csi.GetPluginInfoRequest{}, grpc.WaitForReady(true))
			if err != nil || name.Name != "csi-mock-x" {
				t.Fatalf("driver %v, %v, want csi-mock-x", name, err)
			}
			node, err := csi.NewNodeClient(conn).NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if node.MaxVolumesPerNode != tc.limit || (node.AccessibleTopology != nil) != tc.topology {
				t.Errorf("node %v, want limit %d and topology %v", node, tc.limit, tc.topology)
			}
			if got := attaches(t, conn); got != tc.attach {
				t.Errorf("attaches: %v, want %v", got, tc.attach)
			}
			if got := expands(t, conn); got != tc.expands {
				t.Errorf("expands on the node: %v, want %v", got, tc.expands)
			}
		})
	}
}

// TestDriverLogsCallsAsTheSuiteReadsThem publishes a volume without an
// attachment: a directory, and a line of the log with the method and what was
// sent.
func TestDriverLogsCallsAsTheSuiteReadsThem(t *testing.T) {
	var logged bytes.Buffer
	klog.LogToStderr(false)
	klog.SetOutput(&logged)
	t.Cleanup(func() { klog.SetOutput(os.Stderr); klog.LogToStderr(true) })

	conn := start(t, "-v=5", "-enable-attach")
	kind := &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}}
	made, err := csi.NewControllerClient(conn).CreateVolume(t.Context(), &csi.CreateVolumeRequest{Name: "v", VolumeCapabilities: []*csi.VolumeCapability{kind}}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(t.TempDir(), "mount")
	node := csi.NewNodeClient(conn)
	if _, err := node.NodeStageVolume(t.Context(), &csi.NodeStageVolumeRequest{VolumeId: made.Volume.VolumeId, StagingTargetPath: "/stage", VolumeCapability: kind}); err != nil {
		t.Fatal(err)
	}
	if _, err := node.NodePublishVolume(t.Context(), &csi.NodePublishVolumeRequest{
		VolumeId: made.Volume.VolumeId, TargetPath: target, VolumeCapability: kind, VolumeContext: map[string]string{"csi.storage.k8s.io/pod.name": "p"},
	}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(target); err != nil || !info.IsDir() {
		t.Errorf("target: %v, %v, want a directory", info, err)
	}
	conn.Close()
	klog.Flush()
	for line := range strings.Lines(logged.String()) {
		_, call, ok := strings.Cut(line, "gRPCCall:")
		var got struct {
			Method  string
			Request struct {
				VolumeContext  map[string]string `json:"volume_context"`
				PublishContext map[string]string `json:"publish_context"`
			}
		}
		if ok && json.Unmarshal([]byte(call), &got) == nil && got.Method == "/csi.v1.Node/NodePublishVolume" && got.Request.VolumeContext["csi.storage.k8s.io/pod.name"] == "p" && got.Request.PublishContext == nil {
			return
		}
	}
	t.Errorf("no call of NodePublishVolume with the pod's name alone in the log:\n%s", logged.String())
}

// start runs the driver until the test's end.
func start(t *testing.T, flags ...string) *grpc.ClientConn {
	t.Helper()
	dir, err := os.MkdirTemp("", "csi") // a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, append([]string{"-endpoint", socket, "-drivername", "csi-mock-x", "-nodeid", "n", "-statedir", dir}, flags...))
	}()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return conn
}

func attaches(t *testing.T, conn *grpc.ClientConn) bool {
	t.Helper()
	answer, err := csi.NewControllerClient(conn).ControllerGetCapabilities(t.Context(), &csi.ControllerGetCapabilitiesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range answer.Capabilities {
		if c.GetRpc().GetType() == csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME {
			return true
		}
	}
	return false
}

func expands(t *testing.T, conn *grpc.ClientConn) bool {
	t.Helper()
	answer, err := csi.NewNodeClient(conn).NodeGetCapabilities(t.Context(), &csi.NodeGetCapabilitiesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range answer.Capabilities {
		if c.GetRpc().GetType() == csi.NodeServiceCapability_RPC_EXPAND_VOLUME {
			return true
		}
	}
	return false
}

// TestDriverPublishesAnInlineVolume publishes and unpublishes one that no
// controller made.
func TestDriverPublishesAnInlineVolume(t *testing.T) {
	node := csi.NewNodeClient(start(t))
	target := filepath.Join(t.TempDir(), "mount")
	if _, err := node.NodePublishVolume(t.Context(), &csi.NodePublishVolumeRequest{
		VolumeId: "inline", TargetPath: target, VolumeContext: map[string]string{"csi.storage.k8s.io/ephemeral": "true"},
		VolumeCapability: &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}},
	}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(target); err != nil || !info.IsDir() {
		t.Errorf("target: %v, %v, want a directory", info, err)
	}
	if _, err := node.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: "inline", TargetPath: target}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(target); !os.IsNotExist(err) {
		t.Errorf("target after it was unpublished: %v", err)
	}
}
