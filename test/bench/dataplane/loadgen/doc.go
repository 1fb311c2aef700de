// Command loadgen makes and answers the connections that the dataplane
// benchmark times. It calls the kernel directly, allocates nothing while it
// measures and has no collector, so that what is seen is the network's.
//
//	loadgen serve ADDRESS               answer a byte with a byte, a stream with its length
//	loadgen call                        obey the commands on standard input
//	loadgen enter [flags] -- PROGRAM…   become PROGRAM in a cgroup, on a core
//
// call reads one command a line and answers each with one line of JSON:
//
//	targets ADDRESS…       whom to connect to, in turn
//	connect N              N times: connect, a byte each way, reset
//	exchange N             one connection, N times a byte each way
//	stream MS              send for so long
//	until up|down MS       connect until that works, or is refused
package main
