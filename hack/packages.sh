#!/usr/bin/env bash
# Lists the packages that have tests, as "light" or "heavy": heavy ones link
# Kubernetes' or containerd's own code, which would all be compiled a second
# time for the race detector. hostnode/supervise is both: with the detector its
# commands are too slow to be killed at many moments.
#
#   packages.sh light|heavy
set -euo pipefail
cd "$(dirname "$0")/.."
go list -test -f '{{if .ForTest}}{{else if eq .Name "main"}}{{.ImportPath}} {{join .Deps " "}}{{end}}' ./... |
	awk -v want="$1" '
		$1 ~ /\.test$/ {
			heavy = 0
			for (i = 2; i <= NF; i++)
				if ($i ~ /^k8s\.io\/(kubernetes|apiserver|client-go\/kubernetes)/ || $i ~ /^github\.com\/containerd\/containerd\/v2\/(cmd|plugins|internal\/cri)/ || $i ~ /^go\.etcd\.io\/etcd\/server/) heavy = 1
			sub(/\.test$/, "", $1)
			if ($1 ~ /\/hostnode\/supervise$/ && want == "heavy") heavy = 1
			if ($1 !~ /\/test\/e2e$/ && (want == "heavy") == heavy) print $1
		}'
