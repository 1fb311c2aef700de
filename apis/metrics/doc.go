// Package metrics is the API group metrics.k8s.io of the API server: what
// `kubectl top` shows and the horizontal pod autoscaler reads. The API, the
// reading of kubelets' answers and the arithmetic are metrics-server's
// (sigs.k8s.io/metrics-server); there is no Pod of it, no Service and no hop:
// the group is one of the server's own.
//
// metrics-server asks all kubelets every 15 s for ever. Source asks them when
// somebody asks: a cluster in which nobody does pays nothing. CPU usage is the
// difference of two samples, so that the first answer after a minute of
// silence takes a second or two, until there are two, and its window is as
// short. Whoever asks again within 15 s gets the same answer; whoever asks
// later, as the autoscaler does, gets the usage since the last question.
// timestamp and window say so in every answer.
//
// A user may install metrics-server itself: its APIService takes the place of
// ours, and stays.
package metrics
