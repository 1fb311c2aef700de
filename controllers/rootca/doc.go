// Package rootca publishes the cluster's CA as the ConfigMap kube-root-ca.crt
// of every active namespace, in place of upstream's controller of the same
// name. Pods verify the API server with it.
package rootca
