// Package trace says what Services and NetworkPolicies do with a connection,
// for `skiff trace`. Objects are what the API server holds. On the control
// plane, Resolve finds the pods, Services and addresses that a question names;
// on a node, TraceServices and TracePolicies compare the node's maps with what
// the objects lead to, by the loaders' own models. All but Read is pure.
package trace
