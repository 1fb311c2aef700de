// Command agent is skiff's service loader as a process of its own, for the
// dataplane benchmark: in skiff it is a part of the node's process.
//
// It prints a line of JSON when the maps hold what the API server told first,
// and then one for each watch event that changed the entry of -observe: the
// time from the event's bytes to the changed map.
package main
