// Package loopback is the API server's way to itself: an http.RoundTripper that
// calls the server's handler, with the semantics of a connection.
package loopback
