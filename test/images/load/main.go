// Command load calls URLs until SIGTERM and prints what came of it as one
// line of JSON, which says that it is done: see test/load.
//
//	load PAUSE URL…
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/skiff-k8s/skiff/test/load"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("want a pause and URLs")
	}
	pause, err := time.ParseDuration(args[0])
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return json.NewEncoder(os.Stdout).Encode(load.Run(ctx, args[1:], pause))
}
