// Command journal keeps a journal in a directory: see test/robustness/journal.
//
//	journal DIRECTORY
//
// POST /append?id=ID answers the record's number when it is on the disk, GET
// /journal all that is there. It ends when the journal is of no use.
package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/skiff-k8s/skiff/test/robustness/journal"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("want a directory")
	}
	j, err := journal.Open(args[0])
	if errors.Is(err, journal.ErrInUse) {
		// For who looks into the volume: nobody reads the log of a container
		// that comes and goes.
		note := fmt.Appendf(nil, "%v: %v\n", time.Now().UTC(), err)
		err = errors.Join(err, os.WriteFile(filepath.Join(args[0], "in-use"), note, 0o644))
	}
	if err != nil {
		return err
	}
	var (
		one     sync.Mutex // one record at a time
		useless = make(chan error, 2)
	)
	http.HandleFunc("POST /append", func(w http.ResponseWriter, r *http.Request) {
		one.Lock()
		defer one.Unlock()
		number, err := j.Append(r.URL.Query().Get("id"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			select {
			case useless <- err:
			default:
			}
			return
		}
		fmt.Fprint(w, number)
	})
	http.HandleFunc("GET /journal", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, filepath.Join(args[0], "journal"))
	})
	http.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	go func() { useless <- http.ListenAndServe(":8080", nil) }()
	return <-useless
}
