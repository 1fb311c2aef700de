package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
)

func main() {
	// The one thread that measures is the main one, and nothing stops it.
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "loadgen:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("want serve, call or enter")
	}
	switch mode := args[0]; mode {
	case "serve":
		if len(args) != 2 {
			return fmt.Errorf("serve: want one address")
		}
		return serve(args[1])
	case "call":
		return obey(os.Stdin, os.Stdout)
	case "enter":
		return enter(args[1:])
	default:
		return fmt.Errorf("%q: want serve, call or enter", mode)
	}
}
