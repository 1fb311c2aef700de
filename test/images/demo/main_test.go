package main

import (
	"context"
	"net"
	"net/http"
	"testing"
	"time"
)

func TestServesOnAfterItIsToldToStop(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	slow, began := make(chan struct{}), make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/slow", func(http.ResponseWriter, *http.Request) { close(began); <-slow })
	done := make(chan error, 1)
	go func() { done <- serve(ctx, l, mux, 2*time.Second) }()

	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(path string) error {
		resp, err := client.Get("http://" + l.Addr().String() + path)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	stop()
	if err := get("/"); err != nil {
		t.Errorf("a connection right after the signal: %v", err)
	}
	finished := make(chan error, 1)
	go func() { finished <- get("/slow") }()
	<-began
	for end := time.Now().Add(time.Minute); get("/") == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it takes connections after its farewell")
		}
	}
	select {
	case err := <-done:
		t.Fatalf("it ended with a request in hand: %v", err)
	default:
	}
	close(slow)
	if err := <-finished; err != nil {
		t.Errorf("the request that it had in hand: %v", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
