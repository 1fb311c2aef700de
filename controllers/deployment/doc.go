// Package deployment rolls Deployments out through ReplicaSets, in place of
// upstream's controller of the same name.
//
// A pass is pure: the Deployment, its ReplicaSets, whether old Pods run, and
// the time go in; ReplicaSets to create, change and delete, a status and
// events come out. The arithmetic of sizes, revisions and hashes is upstream's
// deployment/util.
//
//	paused ─────────→ keep proportions, clean up history
//	rollback wanted ─→ put the old template back, next pass rolls it out
//	size changed ────→ keep proportions
//	Recreate ────────→ old sets to zero → old Pods gone → new set to full size
//	RollingUpdate ───→ new set up as far as surge allows, or else
//	                   old sets down as far as availability allows
//
// Upstream writes the status up to three times a pass with one resource
// version, so that all but the first write conflict and are backed off. Here a
// pass writes each object once, and the next pass waits until the watch has
// shown these writes.
package deployment
