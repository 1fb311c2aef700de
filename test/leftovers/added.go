// Package leftovers compares what a host has before and after a test.
package leftovers

// Added lists what after has and before has not, each as often as it was added.
func Added(before, after []string) []string {
	count := map[string]int{}
	for _, b := range before {
		count[b]++
	}
	var added []string
	for _, a := range after {
		if count[a]--; count[a] < 0 {
			added = append(added, a)
		}
	}
	return added
}
