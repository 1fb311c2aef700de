package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/skiff-k8s/skiff/apis/storage/backup"
	"github.com/skiff-k8s/skiff/apis/storage/relocate"
)

// etcdCommand saves and restores etcd for the host: `skiff` runs it as a
// child, so that it need not hold etcd itself. Results go out as JSON.
func etcdCommand(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("want save or restore")
	}
	flags := flag.NewFlagSet("etcd "+args[0], flag.ContinueOnError)
	endpoint := flags.String("endpoint", "", "a member that runs")
	dir := flags.String("data-dir", "", "a member's directory: to save, of one that does not run; to restore, one that is not there")
	file := flags.String("file", "", "what save writes and restore reads")
	token := flags.String("token", "", "the name of the restored etcd")
	plan := flags.String("relocate", "", "a file with the relocate.Plan of what is restored")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	switch {
	case *file == "":
		return errors.New("--file is required")
	case args[0] == "save" && (*endpoint == "") == (*dir == ""):
		return errors.New("want --endpoint or --data-dir")
	case args[0] == "save" && *endpoint != "":
		return printStatus(backup.Save(ctx, *endpoint, *file))
	case args[0] == "save":
		return printStatus(backup.SaveStopped(ctx, *dir, *file))
	case args[0] == "restore":
		return restoreEtcd(ctx, *file, *dir, *token, *plan)
	}
	return fmt.Errorf("unknown verb %q: want save or restore", args[0])
}

func printStatus(st *backup.Status, err error) error {
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(st)
}

func restoreEtcd(ctx context.Context, file, dir, token, planFile string) error {
	if err := backup.Restore(file, dir, token, backup.Alone); err != nil || planFile == "" {
		return err
	}
	plan := &relocate.Plan{}
	if err := readConfig(planFile, plan); err != nil {
		return err
	}
	return backup.Edit(ctx, dir, plan.Run)
}
