#!/bin/sh
# Compiles one C file of dataplane/bpf and writes the Go and the object beside
# the loader that calls this in its go:generate line:
#
#   ../../../hack/generate-bpf.sh <Ident> <file.c> [-type name ...]
#
# Needs clang, llvm and libbpf's headers (apt: clang llvm libbpf-dev); the
# output is committed, so that `go build` needs none of them.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
ident=$1
source=$root/dataplane/bpf/$2
shift 2

# The headers of the kernel's API are named by machine on Debian.
include=/usr/include/$(uname -m)-linux-gnu

# No field relocations: the loader would have to parse the kernel's whole type
# information (17 ms) for programs that read nothing of the kernel's.
exec go run github.com/cilium/ebpf/cmd/bpf2go -tags linux -target bpfel -go-package "$GOPACKAGE" "$@" "$ident" "$source" -- \
	-O2 -g -Wall -Wextra -Wno-unused-parameter -Werror -mcpu=v3 \
	-DBPF_NO_PRESERVE_ACCESS_INDEX -I"$include"
