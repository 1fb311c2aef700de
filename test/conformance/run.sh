#!/usr/bin/env bash
# Runs upstream's e2e suite against a skiff cluster of its own.
#
#   run.sh [--slice] [--keep] [--parallel-only|--serial-only]
#   FOCUS=regexp SKIP=regexp PROCS=n   as for ginkgo; default: all [Conformance]
#   WORKERS=n ZONES=n                  default: two workers, without zones; specs
#                                      that need more nodes or zones skip themselves
#   IP_FAMILY=dual|ipv6                default: ipv4
#   CSI=1                              load the CSI sidecars as well, for "CSI Mock"
#   DRIVERS=1                          "External Storage" of the emulated cloud, as
#                                      drivers/*.yaml say; FILESYSTEMS=images: with
#                                      file systems of their own, which two specs want
#   SSH=1                              serve SSH on the nodes, for [Disruptive] specs
#                                      that restart kubelets; wants openssh-server
#                                      and crictl on the host
#   GATES="A: true, B: true"           feature gates of the cluster
#   NAME=name SUBNET=a.b.c             default: conformance 172.30.77; so that two
#                                      runs go side by side
#
# Specs marked [Serial] or [Disruptive] run alone, after the others. Writes
# JUnit files and summary.md to _output/NAME/; exits non-zero when a
# spec failed.
set -euo pipefail
cd "$(dirname "$0")/../.."
export CGO_ENABLED=0

slice= keep= parallel=1 serial=1
for arg in "$@"; do
	case "$arg" in
	--slice) slice=1 serial= ;;
	--parallel-only) serial= ;;
	--serial-only) parallel= ;;
	--keep) keep=1 ;;
	*) echo "Error: $arg: unknown flag; see the head of $0"; exit 2 ;;
	esac
done

name=${NAME:-conformance} subnet=${SUBNET:-172.30.77}
out=$PWD/_output/$name
kubeconfig=$out/kubeconfig
mirror=$subnet.2:5000
procs=${PROCS:-$(($(nproc) * 7))}
focus=${FOCUS:-'\[Conformance\]'}
skip=${SKIP:-}
workers=${WORKERS:-2} zones=${ZONES:-0}
[ -z "$slice" ] || focus=$(grep -vE '^(#|$)' test/conformance/slice.txt | sed 's/$/.*\\[Conformance\\]/' | paste -sd'|')
alone='\[Serial\]|\[Disruptive\]'

rm -rf "$out"
mkdir -p "$out/containerd/certs.d/registry.k8s.io" "$out/ssh"
mkdir -p _output/bin
go build -o _output/bin/mirror ./test/images/mirror
go build -o _output/bin/ginkgo github.com/onsi/ginkgo/v2/ginkgo
go build -o _output/bin/conformance-summary ./test/conformance/summary
# The suite compares its own version with the server's, and picks fixtures by it.
go test -c -vet=off -ldflags '-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37' -o _output/bin/e2e.test k8s.io/kubernetes/test/e2e
archive=_output/images.tar

# Specs that pull "always" reach a mirror of upstream's registry.
cat >"$out/containerd/certs.d/registry.k8s.io/hosts.toml" <<TOML
server = "http://$mirror"
[host."http://$mirror"]
  capabilities = ["pull", "resolve"]
TOML
# By this file the suite finds out that nodes have the handler of its RuntimeClass.
echo '# runtimes.test-handler is in runtimeHandlers of the cluster' >"$out/containerd/config.toml"
node() { # node ROLE [LABEL]
	printf -- '- role: %s\n  extraMounts:\n' "$1"
	printf -- '  - hostPath: %s\n    containerPath: %s\n    readOnly: true\n' "$out/containerd" /etc/containerd \
		"$out/ssh" /opt/keys "$PWD/test/conformance/ssh" /opt/ssh
	[ -z "${2:-}" ] || printf '  labels:\n    %s\n' "$2"
}
{
	cat <<-YAML
		kind: Cluster
		apiVersion: skiff.cluster/v1alpha1
		featureGates: {${GATES:-}}
		cloud: {filesystems: ${FILESYSTEMS:-directories}}
		runtimeHandlers: [{name: test-handler, path: $PWD/bin/libexec/skiff/runc}]
		networking:
		  ipFamily: ${IP_FAMILY:-ipv4}
		  nodeSubnet: $subnet.0/24$([ "${IP_FAMILY:-ipv4}" != dual ] || echo ",fd00:30:77::/64")
		nodes:
	YAML
	node control-plane
	for ((i = 0; i < workers; i++)); do
		node worker "$([ "$zones" = 0 ] || echo "topology.kubernetes.io/zone: zone-$((i % zones))")"
	done
} >"$out/cluster.yaml"

mirror_pid=
finish() {
	[ -z "$mirror_pid" ] || kill "$mirror_pid" 2>/dev/null || true
	[ -n "$keep" ] || bin/skiff delete cluster --name "$name" --kubeconfig "$kubeconfig" -q || true
}
trap finish EXIT

bin/skiff create cluster --name "$name" --config "$out/cluster.yaml" --kubeconfig "$kubeconfig"
bin/skiff load image-archive "$archive" --name "$name"
[ -z "${CSI:-}" ] || bin/skiff load image-archive _output/images-csi.tar --name "$name"
_output/bin/mirror -listen "$mirror" "$archive" >"$out/mirror.log" 2>&1 &
mirror_pid=$!
if [ -n "${SSH:-}" ]; then
	ssh-keygen -q -t ed25519 -N '' -f "$out/ssh/host"
	ssh-keygen -q -t ed25519 -N '' -f "$out/ssh/user"
	cp "$out/ssh/user.pub" "$out/ssh/authorized_keys"
	for machine in $(bin/skiff get nodes --name "$name" -o name); do
		bin/skiff exec "$machine" -- /opt/ssh/serve.sh /opt/keys
	done
	export KUBE_SSH_KEY=$out/ssh/user KUBE_SSH_USER=root
fi
drivers=()
if [ -n "${DRIVERS:-}" ]; then
	_output/bin/kubectl --kubeconfig "$kubeconfig" apply -f test/conformance/drivers/classes.yaml
	drivers=(--storage.testdriver "$PWD/test/conformance/drivers/ebs.yaml" --storage.testdriver "$PWD/test/conformance/drivers/azurefile.yaml")
fi

suite() { # suite NAME PROCS FOCUS SKIP
	echo "== $1: procs $2"
	_output/bin/ginkgo run --procs "$2" --timeout 3h --poll-progress-after 0 --no-color \
		--focus "$3" ${4:+--skip "$4"} --succinct --output-dir "$out" --junit-report "junit_$1.xml" \
		_output/bin/e2e.test -- \
		--kubeconfig "$kubeconfig" --provider skeleton --kubectl-path "$PWD/_output/bin/kubectl" \
		--num-nodes "$workers" --disable-log-dump --report-dir "$out/reports_$1" "${drivers[@]}" >"$out/$1.log" 2>&1 || true
	tail -n 3 "$out/$1.log"
}

[ -z "$parallel" ] || suite parallel "$procs" "$focus" "${skip:+$skip|}$alone"
# ginkgo joins focus expressions with "or": the serial part names both in one.
# The slice has none of them.
[ -z "$serial" ] || suite serial 1 "($focus).*($alone)|($alone).*($focus)" "$skip"

_output/bin/conformance-summary -o "$out/summary.md" "$out"/junit_*.xml
