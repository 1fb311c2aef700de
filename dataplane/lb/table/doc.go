// Package table owns the kernel maps of service load balancing: it creates
// or opens them, pinned in one directory, and brings them to a wanted state
// by writing differences only, in an order in which no reader ever sees half
// a service (dataplane/bpf/lb.h tells how).
//
// A Table does not know where the wanted state comes from: package lb plans
// it from Services and EndpointSlices. It imports no Kubernetes package, so
// that the supervisor can load the switch's program (package switchnat).
package table

//go:generate ../../../hack/generate-bpf.sh tables lb_tables.c -type lb_backend -type lb_flags -type lb_scope -type lb_counter
