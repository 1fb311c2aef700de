#!/usr/bin/env bash
# The demo: a cluster of one control plane and two workers, an image built
# from this repository, config/samples/demo.yaml, and the Service's answer.
set -euo pipefail
cd "$(dirname "$0")/.."
kubectl_program=$PWD/_output/bin/kubectl
name=skiff

[ "$(id -u)" = 0 ] || { echo "Error: skiff makes namespaces and cgroups: run as root"; exit 1; }

if bin/skiff get clusters -q | grep -qx "$name"; then
	echo "Cluster \"$name\" is there already; 'make down' deletes it."
else
	bin/skiff create cluster --name "$name" --config config/samples/three-nodes.yaml
fi
kubectl() { "$kubectl_program" --context "skiff-$name" "$@"; }

go run ./test/images -set demo -o _output/images-demo.tar
bin/skiff load image-archive _output/images-demo.tar --name "$name"
kubectl apply -f config/samples/demo.yaml
kubectl rollout status deployment/demo --timeout=60s

ip=$(kubectl get service demo -o jsonpath='{.spec.clusterIP}')
echo "\$ curl http://$ip    # the Service's ClusterIP, from the host"
curl -sS --retry 10 --retry-delay 1 --retry-connrefused --max-time 10 "http://$ip"
echo
echo "\$ kubectl get nodes,pods -o wide"
kubectl get nodes,pods -o wide
