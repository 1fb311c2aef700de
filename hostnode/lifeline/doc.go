// Package lifeline tells the processes of a cluster at once when one of its
// control planes dies, stands still or cannot serve.
//
// A control plane's process serves connections on which it says who it is and,
// every second and when it changes, whether its API server serves:
//
//	control-plane2/5e1f…\n  ++++-+++…
//
// Who holds such a line learns of the process's death from the kernel, which
// ends the connection, within a millisecond: long before any lease or election
// timeout. Silence says less: the process may live behind a cut cable, or
// stand still.
//
// The other control planes hold a line (Watch), so does the supervisor; nodes
// ask by one before they connect to an API server (Dialer). It runs only in
// clusters with several control planes.
package lifeline
