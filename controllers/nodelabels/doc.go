// Package nodelabels gives Nodes the labels that their kubelets may not set on
// themselves (NodeRestriction): node-role.kubernetes.io/control-plane, as
// kubeadm's mark-control-plane phase does, and those of the config file. Each
// Node gets them once.
package nodelabels
