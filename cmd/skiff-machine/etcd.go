package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

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
	var endpoints, dirs listFlag
	flags.Var(&endpoints, "endpoint", "a member that runs; may be repeated")
	flags.Var(&dirs, "data-dir", "a member's directory: to save, of one that does not run, repeated for the others; to restore, one that is not there")
	file := flags.String("file", "", "what save writes and restore reads")
	token := flags.String("token", "", "the name of the restored etcd")
	plan := flags.String("relocate", "", "a file with the relocate.Plan of what is restored")
	var members memberFlag
	flags.Var(&members, "member", "NAME=URL=DIR of each member of a restored etcd that has several, instead of --data-dir")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	switch {
	case *file == "":
		return errors.New("--file is required")
	case args[0] == "save" && (len(endpoints) == 0) == (len(dirs) == 0):
		return errors.New("want --endpoint or --data-dir")
	case args[0] == "save" && len(endpoints) > 0:
		return printStatus(backup.Save(ctx, endpoints, *file))
	case args[0] == "save":
		return printStatus(backup.SaveStopped(ctx, dirs, *file))
	case args[0] == "restore" && (len(members) == 0) != (len(dirs) == 1):
		return errors.New("want one --data-dir, or --member")
	case args[0] == "restore":
		if len(members) == 0 {
			members = memberFlag{{Member: backup.Alone, dir: dirs[0]}}
		}
		if err := restoreEtcd(ctx, *file, *token, *plan, members); err != nil {
			return err
		}
		return printVolumes(*file)
	}
	return fmt.Errorf("unknown verb %q: want save or restore", args[0])
}

func printStatus(st *backup.Status, err error) error {
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(st)
}

// listFlag is a flag that may be repeated.
type listFlag []string

func (l *listFlag) String() string { return fmt.Sprint(*l) }

// Set adds one.
func (l *listFlag) Set(text string) error {
	*l = append(*l, text)
	return nil
}

// memberFlag are members of an etcd with their directories.
type memberFlag []struct {
	backup.Member
	dir string
}

func (m *memberFlag) String() string { return fmt.Sprint(*m) }

// Set adds one.
func (m *memberFlag) Set(text string) error {
	parts := strings.SplitN(text, "=", 3)
	if len(parts) != 3 {
		return fmt.Errorf("%q: want NAME=URL=DIR", text)
	}
	*m = append(*m, struct {
		backup.Member
		dir string
	}{backup.Member{Name: parts[0], PeerURL: parts[1]}, parts[2]})
	return nil
}

// restoreEtcd makes the directories of all members. What is relocated is so
// before there are several: all of them begin with the same.
func restoreEtcd(ctx context.Context, file, token, planFile string, members memberFlag) (err error) {
	if planFile != "" && len(members) > 1 {
		edited := members[0].dir + ".edited"
		defer func() { err = errors.Join(err, os.RemoveAll(edited)) }()
		if err := restoreRelocated(ctx, file, filepath.Join(edited, "data"), token, planFile); err != nil {
			return err
		}
		file = filepath.Join(edited, "etcd.db")
		if _, err := backup.SaveStopped(ctx, []string{filepath.Join(edited, "data")}, file); err != nil {
			return err
		}
		planFile = ""
	}
	if planFile != "" {
		return restoreRelocated(ctx, file, members[0].dir, token, planFile)
	}
	for i, m := range members {
		var others []backup.Member
		for j, other := range members {
			if i != j {
				others = append(others, other.Member)
			}
		}
		if err := backup.Restore(file, m.dir, token, m.Member, others...); err != nil {
			return err
		}
	}
	return nil
}

func restoreRelocated(ctx context.Context, file, dir, token, planFile string) error {
	plan := &relocate.Plan{}
	if err := readConfig(planFile, plan); err != nil {
		return err
	}
	if err := backup.Restore(file, dir, token, backup.Alone); err != nil {
		return err
	}
	return backup.Edit(ctx, dir, plan.Run)
}
