package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/cmd/skiff-machine/internal/trace"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
	"github.com/skiff-k8s/skiff/dataplane/policy"
)

// traceCommand answers `skiff trace`, which runs it in two machines: resolve
// on the control plane finds who is meant; service and policy, on the node of
// who is asked about, compare the node's maps with what the API's objects
// lead to. What it is asked is JSON in its argument, and so is its answer.
func traceCommand(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return errors.New("want resolve, service or policy, and a question in JSON")
	}
	var (
		answer any
		err    error
	)
	switch question := []byte(args[1]); args[0] {
	case "resolve":
		answer, err = traceResolve(ctx, question)
	case "service", "policy":
		answer, err = traceOnNode(ctx, args[0], question)
	default:
		return fmt.Errorf("unknown verb %q: want resolve, service or policy", args[0])
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(answer)
}

func traceResolve(ctx context.Context, question []byte) (*machinev1alpha1.TraceRoute, error) {
	var q machinev1alpha1.TraceQuestion
	if err := json.Unmarshal(question, &q); err != nil {
		return nil, fmt.Errorf("question: %w", err)
	}
	// Commands in the control plane's machine have the administrator's.
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv(clientcmd.RecommendedConfigPathEnvVar))
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	o, err := trace.Read(ctx, client)
	if err != nil {
		return nil, err
	}
	return o.Resolve(q)
}

// traceOnNode reads the API as this node's loaders do, and their maps.
func traceOnNode(ctx context.Context, verb string, question []byte) (any, error) {
	var r machinev1alpha1.TraceRoute
	if err := json.Unmarshal(question, &r); err != nil {
		return nil, fmt.Errorf("question: %w", err)
	}
	node := &machinev1alpha1.NodeConfiguration{}
	if err := readConfig(machinev1alpha1.NodeConfigFile, node); err != nil {
		return nil, err
	}
	client, err := dataplaneClient(node)
	if err != nil {
		return nil, err
	}
	o, err := trace.Read(ctx, client)
	if err != nil {
		return nil, err
	}
	if verb == "policy" {
		maps, err := policy.Inspect(policyPins)
		if err != nil {
			return nil, err
		}
		return o.TracePolicies(r, node.NodeName, maps), nil
	}
	pins := servicePins
	if r.Client.Node == "" {
		pins = machinev1alpha1.SwitchBPFDir
	}
	maps, err := table.Inspect(pins)
	if err != nil {
		return nil, err
	}
	return o.TraceServices(r, maps), nil
}
