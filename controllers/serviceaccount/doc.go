// Package serviceaccount keeps a ServiceAccount named default in every active
// namespace, in place of upstream's controller of the same name.
package serviceaccount
