package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/cmd/skiff/internal/hostcheck"
	"github.com/skiff-k8s/skiff/hostnode/supervise"
)

// traceOptions are those of both nouns.
type traceOptions struct {
	cluster, namespace, protocol, output string
}

// traceOutputs are the values of --output.
var traceOutputs = []string{"text", "json"}

const traceArgs = `

POD is NAME or NAMESPACE/NAME, node/NAME for a process in a node's own network,
or host for this host and all outside the cluster. DEST is NAME[.NAMESPACE][:PORT]
of a Service, ADDRESS:PORT, or pod/[NAMESPACE/]NAME[:PORT]; its namespace is the
pod's unless it names one, and a port may be left out where there is one only.`

func (a *app) traceServiceCommand() *cobra.Command {
	return a.traceCommand(&cobra.Command{
		Use:   "service POD DEST",
		Short: "Say which Service and endpoints a connection meets",
		Long: `Say which Service and endpoints a connection meets, by the maps of the node that
it starts on, and where these differ from what the API's objects lead to.` + traceArgs,
		Example: `  skiff trace service web-0 db:5432
  skiff trace service -n shop web-0 kube-dns.kube-system:dns --protocol udp
  skiff trace service host 172.31.0.1:80`,
	}, func(ctx context.Context, o traceOptions, q machine.TraceQuestion) error {
		r, calls, err := a.traceService(ctx, o, q)
		if err != nil {
			return err
		}
		return a.printTrace(o.output, serviceReport{r, calls})
	})
}

func (a *app) tracePolicyCommand() *cobra.Command {
	return a.traceCommand(&cobra.Command{
		Use:   "policy POD DEST",
		Short: "Say which NetworkPolicies and rules a connection meets",
		Long: `Say which NetworkPolicies and rules allow or deny a connection, on the way out of
one pod and into the other, and whether the maps of their nodes say the same. A
Service stands for its endpoints.` + traceArgs,
		Example: `  skiff trace policy web-0 db:5432
  skiff trace policy shop/web-0 pod/shop/db-0:5432
  skiff trace policy shop/web-0 192.0.2.7:443`,
	}, func(ctx context.Context, o traceOptions, q machine.TraceQuestion) error {
		r, flows, err := a.tracePolicy(ctx, o, q)
		if err != nil {
			return err
		}
		return a.printTrace(o.output, policyReport{r, flows})
	})
}

// traceCommand gives a noun what both have in common.
func (a *app) traceCommand(cmd *cobra.Command, run func(context.Context, traceOptions, machine.TraceQuestion) error) *cobra.Command {
	var o traceOptions
	cmd.Args = argCount(2, 2, "POD DEST")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		q, err := o.question(args[0], args[1])
		if err != nil {
			return &usageError{cmd, err}
		}
		if err := hostcheck.Root("trace " + cmd.Name() + " " + strings.Join(args, " ")); err != nil {
			return err
		}
		return a.about("trace "+cmd.Name(), run(cmd.Context(), o, q))
	}
	// -n is a namespace here, as kubectl's: POD and DEST have one.
	cmd.Flags().StringVarP(&o.namespace, "namespace", "n", "default", "the namespace of POD")
	cmd.Flags().StringVar(&o.protocol, "protocol", "tcp", "tcp, udp or sctp")
	cmd.Flags().StringVarP(&o.output, "output", "o", traceOutputs[0], "one of "+strings.Join(traceOutputs, ", "))
	a.completeFlag(cmd, "protocol", func(*cobra.Command) []string { return []string{"tcp", "udp", "sctp"} })
	a.completeFlag(cmd, "output", func(*cobra.Command) []string { return traceOutputs })
	cmd.Flags().StringVar(&o.cluster, "name", "", nameUsage)
	a.completeFlag(cmd, "name", a.clusterNames)
	return cmd
}

// question reads the command line.
func (o traceOptions) question(pod, dest string) (q machine.TraceQuestion, err error) {
	if !slices.Contains(traceOutputs, o.output) {
		return q, fmt.Errorf("--output %q: not one of %s", o.output, strings.Join(traceOutputs, ", "))
	}
	if q.Protocol, err = parseProtocol(o.protocol); err != nil {
		return q, err
	}
	if q.Client, err = parseClient(pod, o.namespace); err != nil {
		return q, fmt.Errorf("POD %w", err)
	}
	namespace := q.Client.Namespace
	if namespace == "" {
		namespace = o.namespace
	}
	if q.Destination, err = parseDestination(dest, namespace); err != nil {
		return q, fmt.Errorf("DEST %w", err)
	}
	return q, nil
}

func (a *app) traceService(ctx context.Context, o traceOptions, q machine.TraceQuestion) (machine.TraceRoute, []machine.ServiceTrace, error) {
	cluster, r, err := a.traceResolve(ctx, o, q)
	if err != nil || len(r.Calls) == 0 {
		return r, nil, err
	}
	calls, err := traceTool[[]machine.ServiceTrace](ctx, cluster, r.Client.Node, "service", r)
	return r, calls, err
}

func (a *app) tracePolicy(ctx context.Context, o traceOptions, q machine.TraceQuestion) (machine.TraceRoute, []machine.PolicyTrace, error) {
	cluster, r, err := a.traceResolve(ctx, o, q)
	if err != nil || len(r.Flows) == 0 {
		return r, nil, err
	}
	var flows []machine.PolicyTrace
	for _, node := range nodesOf(r) {
		of, err := traceTool[[]machine.PolicyTrace](ctx, cluster, node, "policy", r)
		if err != nil {
			return r, nil, err
		}
		flows = mergePolicies(flows, of)
	}
	return r, flows, nil
}

// traceResolve asks the control plane who is meant.
func (a *app) traceResolve(ctx context.Context, o traceOptions, q machine.TraceQuestion) (string, machine.TraceRoute, error) {
	var r machine.TraceRoute
	cluster, err := a.clusterName(o.cluster)
	if err != nil {
		return "", r, err
	}
	if _, err := a.get(ctx, cluster); err != nil {
		return "", r, err
	}
	if r, err = traceTool[machine.TraceRoute](ctx, cluster, "", "resolve", q); err != nil {
		return "", r, err
	}
	for i := range r.Calls {
		r.Calls[i].From = sourceOf(r.Calls[i])
	}
	for i := range r.Flows {
		r.Flows[i].From = sourceOf(r.Flows[i].TraceCall)
	}
	return cluster, r, nil
}

// sourceOf is the address that a call comes from; of this host's, the one that
// its routes choose. A connected UDP socket sends nothing.
func sourceOf(c machine.TraceCall) netip.Addr {
	if c.From.IsValid() {
		return c.From
	}
	conn, err := net.Dial("udp", c.To.String())
	if err != nil {
		return c.From
	}
	defer conn.Close()
	local, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		return c.From
	}
	return local.Addr().Unmap()
}

// nodesOf are the nodes whose policies see flows, or the control plane's if
// there is none: it knows the objects.
func nodesOf(r machine.TraceRoute) []string {
	var nodes []string
	for _, f := range r.Flows {
		for _, n := range []string{f.FromNode, f.ToNode} {
			if n != "" && !slices.Contains(nodes, n) {
				nodes = append(nodes, n)
			}
		}
	}
	if nodes == nil {
		return []string{""}
	}
	return nodes
}

// mergePolicies adds what another node knows of the same flows.
func mergePolicies(have, more []machine.PolicyTrace) []machine.PolicyTrace {
	if len(have) != len(more) {
		return more
	}
	for i := range have {
		have[i].Egress = better(have[i].Egress, more[i].Egress)
		have[i].Ingress = better(have[i].Ingress, more[i].Ingress)
	}
	return have
}

// better is the answer of the node whose maps were asked.
func better(a, b *machine.PolicyDirection) *machine.PolicyDirection {
	if b != nil && b.MapsAllow != nil {
		return b
	}
	return a
}

// traceTool runs `skiff-machine trace` in a machine: what knows Kubernetes is
// in the big program.
func traceTool[T any](ctx context.Context, cluster, node, verb string, question any) (answer T, err error) {
	text, err := json.Marshal(question)
	if err != nil {
		return answer, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return answer, err
	}
	defer null.Close()
	var stdout, stderr collected
	if err := errors.Join(stdout.open(), stderr.open()); err != nil {
		return answer, err
	}
	cmd := []string{machine.LibexecDir + "/skiff-machine", "trace", verb, string(text)}
	code, err := supervise.Exec(ctx, cluster, node, cmd, supervise.Streams{In: null, Out: stdout.in, Err: stderr.in}, false)
	out, said := stdout.close(), stderr.close()
	if err != nil {
		return answer, err
	}
	if code != 0 {
		return answer, traceFailure(string(said), code)
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		return answer, fmt.Errorf("skiff-machine trace %s: %w", verb, err)
	}
	return answer, nil
}

// traceFailure takes the tool's own words, and the mend that it knows.
func traceFailure(stderr string, code int) error {
	_, lastWord := splitError(stderr)
	message, mend, _ := strings.Cut(strings.TrimSpace(lastWord), "\n  Mend: ")
	if message == "" {
		return &mended{fmt.Errorf("skiff-machine trace: exit code %d: %s", code, strings.TrimSpace(stderr)), "skiff and the cluster may be of two versions: create the cluster again, or use the skiff that made it"}
	}
	err := errors.New(strings.TrimPrefix(message, "skiff-machine trace: "))
	if mend == "" {
		return err
	}
	return &mended{err, mend}
}

// collected is a pipe that is read until its writers have closed it.
type collected struct {
	in, out *os.File
	data    bytes.Buffer
	done    chan struct{}
}

func (c *collected) open() (err error) {
	if c.out, c.in, err = os.Pipe(); err != nil {
		return err
	}
	c.done = make(chan struct{})
	go func() {
		defer close(c.done)
		_, _ = io.Copy(&c.data, c.out) // what is cut short is no JSON
	}()
	return nil
}

func (c *collected) close() []byte {
	c.in.Close()
	<-c.done
	c.out.Close()
	return c.data.Bytes()
}
