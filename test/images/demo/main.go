// Command demo is the web server of config/samples/demo.yaml: it answers with
// the Pod and node it runs on, a greeting from a ConfigMap and the length of
// a Secret, so that one curl shows that all of them arrived.
//
// Told to stop, it serves on for a while: connections come until every node
// has heard that the Pod is going.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// farewell is how long connections may still come after SIGTERM. Nodes know
// in milliseconds; elsewhere it takes kube-proxy a second or two.
const farewell = 3 * time.Second

func main() {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /", answer)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	l, err := net.Listen("tcp", ":8080")
	if err != nil {
		log.Fatal(err)
	}
	if err := serve(ctx, l, mux, farewell); err != nil {
		log.Fatal(err)
	}
}

// serve serves until a while after ctx ends, and every request to its end.
func serve(ctx context.Context, l net.Listener, handler http.Handler, farewell time.Duration) error {
	server := &http.Server{Handler: handler}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done:
		return err
	case <-time.After(farewell):
	}
	if err := server.Shutdown(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func answer(w http.ResponseWriter, r *http.Request) {
	greeting, err := os.ReadFile("/etc/demo/greeting")
	if err != nil {
		http.Error(w, "ConfigMap volume: "+err.Error(), http.StatusInternalServerError)
		return
	}
	secret, err := os.ReadFile("/etc/demo-secret/token")
	if err != nil {
		http.Error(w, "Secret volume: "+err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprintf(w, "%s from pod %s on node %s (you are %s, the secret has %d bytes)\n",
		greeting, os.Getenv("POD_NAME"), os.Getenv("NODE_NAME"), r.RemoteAddr, len(secret))
}
