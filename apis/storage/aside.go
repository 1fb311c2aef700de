package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/server/v3/embed"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// A damaged member of several makes room for a new one:
//
//	damaged → told → let go by the others, and a learner added → set aside →
//	without data → caught up → votes
//
// Only a majority of the members can let one go, and the leader that they have
// without it holds all that was ever acknowledged: raft elects no other. Until
// they do, its files stay where they are, as they may be needed. Whenever it is
// cut off, it goes on from there.

// names in the data directory.
var (
	damagedFile = filepath.Base(machinev1alpha1.EtcdDamagedFile)
	asideDir    = filepath.Base(machinev1alpha1.EtcdAsideDir)
	formedFile  = filepath.Base(machinev1alpha1.EtcdFormedFile)
	sumsFile    = filepath.Base(machinev1alpha1.EtcdPageSumsFile)
	troubleFile = filepath.Base(machinev1alpha1.TroubleFile)
)

const memberDir = "member"

// enter says whether the member is to be a new one among the others, and has
// them let it in then.
func (s *Storage) enter(ctx context.Context, cfg *embed.Config) (joins bool, err error) {
	r := s.cfg.Replica
	r.configure(cfg)
	var trouble *Trouble
	switch err := damage(cfg.Dir); {
	case errors.As(err, &trouble) && trouble.Damaged:
		s.tell(trouble)
		slog.Error("etcd member is damaged, and made anew if the others agree", "member", r.Name, "error", trouble)
	case err != nil:
		return false, err
	case founded(cfg.Dir) || !r.Join && !exists(filepath.Join(cfg.Dir, asideDir, memberDir)):
		return false, nil
	}
	if err := r.join(ctx, cfg); err != nil {
		return false, err
	}
	if trouble == nil {
		return true, forgetDamage(cfg.Dir) // of a setting aside that was cut off
	}
	if err := setAside(cfg.Dir, trouble); err != nil {
		return false, fmt.Errorf("set damaged etcd member aside: %w", err)
	}
	slog.Warn("damaged etcd member is set aside", "member", r.Name, "directory", filepath.Join(cfg.Dir, asideDir))
	return true, nil
}

// damage of a data directory, as it is found here or as the host has found it,
// which knows more of a member that was stopped.
func damage(dir string) error {
	if !founded(dir) {
		return nil
	}
	data, err := os.ReadFile(filepath.Join(dir, damagedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Inspect(dir)
	}
	var told machinev1alpha1.Trouble
	if err == nil {
		err = json.Unmarshal(data, &told)
	}
	if err != nil {
		return fmt.Errorf("read what the host says of etcd's files: %w", err)
	}
	return &Trouble{File: told.File, Damaged: true, Err: errors.New(told.Cause)}
}

// setAside moves what a member has out of its way, in the place of what was
// moved before.
func setAside(dir string, t *Trouble) error {
	aside := filepath.Join(dir, asideDir)
	if err := os.RemoveAll(aside); err != nil {
		return err
	}
	if err := os.Mkdir(aside, 0o700); err != nil {
		return err
	}
	why, err := json.Marshal(machinev1alpha1.Trouble{File: t.File, Damaged: true, Cause: t.Err.Error(), Since: time.Now().UTC()})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(aside, troubleFile), why, 0o600); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var move []string
	for _, e := range entries {
		if name := e.Name(); name != asideDir && name != formedFile && name != damagedFile && name != memberDir {
			move = append(move, name)
		}
	}
	// What is about the member first, and what says that it is damaged last.
	for _, name := range append(move, memberDir) {
		if err := os.Rename(filepath.Join(dir, name), filepath.Join(aside, name)); err != nil {
			return err
		}
	}
	return forgetDamage(dir)
}

// forgetDamage that the host has found.
func forgetDamage(dir string) error {
	if err := os.Remove(filepath.Join(dir, damagedFile)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
