#!/usr/bin/env bash
# One node of the comparator, in fresh mount, pid, uts and ipc namespaces and
# the node's network namespace. Runs containerd and what is named after --.
#
#   node.sh NAME DIRECTORY PROGRAMS
set -euo pipefail
name=$1 dir=$2 programs=$3
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir -p "$dir/lib" "$dir/log" "$dir/shadow" /run/containerd
mount --bind "$dir/lib" /var/lib
mount --bind "$dir/log" /var/log
mount --bind /dev/null /dev/kmsg
# The kubelet writes these; the host's stay as they are.
shadow() { echo "$2" >"$dir/shadow/${1//\//.}" && mount --bind "$dir/shadow/${1//\//.}" "/proc/sys/$1"; }
shadow vm/overcommit_memory 1
shadow vm/panic_on_oom 0
shadow kernel/panic 10
shadow kernel/panic_on_oops 1
shadow kernel/keys/root_maxkeys 1000000
shadow kernel/keys/root_maxbytes 25000000
hostname "$name"
echo 1 >/proc/sys/net/ipv4/ip_forward
export PATH=$programs:$PATH
exec 3>&-
containerd --config "$dir/containerd.toml" >"$dir/containerd.out" 2>&1 &
while ! [ -S /run/containerd/containerd.sock ]; do sleep 0.01; done
kubelet --config "$dir/kubelet.yaml" --kubeconfig "$dir/kubeconfig" --hostname-override "$name" --node-ip "$(cat "$dir/ip")" \
	--root-dir /var/lib/kubelet >"$dir/kubelet.out" 2>&1 &
kube-proxy --config "$dir/kube-proxy.yaml" --hostname-override "$name" >"$dir/kube-proxy.out" 2>&1 &
# As pid 1 this shell reaps what the shims leave; kubelets restart on exit.
wait
