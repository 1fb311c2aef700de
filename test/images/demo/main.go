// Command demo is the web server of config/samples/demo.yaml: it answers with
// the Pod and node it runs on, a greeting from a ConfigMap and the length of
// a Secret, so that one curl shows that all of them arrived.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
)

func main() {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /", answer)
	log.Fatal(http.ListenAndServe(":8080", mux))
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
