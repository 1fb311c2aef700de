//go:build tools

// Package tools keeps modules in go.mod that nothing imports but that
// k8s.io/kubernetes requires at v0.0.0: without these lines `go mod tidy`
// drops them and `go list -m all` fails.
package tools

import (
	_ "k8s.io/cri-streaming/pkg/streaming"
	_ "k8s.io/sample-apiserver/pkg/apiserver"
)
