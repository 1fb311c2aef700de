package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skiff-k8s/skiff/cmd/skiff/internal/hostcheck"
	"github.com/skiff-k8s/skiff/hostnode/supervise"
)

const (
	unitName = "skiff.service"
	// unitDirectory is where an administrator's units are.
	unitDirectory = "/etc/systemd/system"
	// systemdRuns is there when the host was booted by systemd.
	systemdRuns = "/run/systemd/system"
)

// service is the unit that starts clusters when the host boots.
type service struct {
	// dir holds units; wants is the link that makes the boot start ours.
	dir, unit, wants string
	// reload tells systemd: dir is its own, and it runs.
	reload bool
	// none says that the host has no systemd to tell.
	none bool
}

func newService(dir string) service {
	_, err := os.Stat(systemdRuns)
	s := service{dir: dir, reload: dir == "" && err == nil, none: dir == "" && err != nil}
	if dir == "" {
		s.dir = unitDirectory
	}
	s.unit = filepath.Join(s.dir, unitName)
	s.wants = filepath.Join(s.dir, "multi-user.target.wants", unitName)
	return s
}

func (a *app) installServiceCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "install-service",
		Short: "Start clusters with \"restart: always\" when the host boots",
		Long: `Start clusters with "restart: always" when the host boots.

A systemd unit starts them at boot and stops them, Pods first, when the host
shuts down. Without systemd, nothing is written, and the command to run at boot
is printed.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.about("install service", a.installService(cmd.Context(), newService(dir)))
		},
	}
	serviceFlag(cmd, &dir)
	return cmd
}

func (a *app) uninstallServiceCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "uninstall-service",
		Short: "Undo install-service; clusters that run go on",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.about("uninstall service", a.uninstallService(cmd.Context(), newService(dir)))
		},
	}
	serviceFlag(cmd, &dir)
	return cmd
}

func serviceFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "directory", "", "where units are, for images of other hosts (default "+unitDirectory+")")
}

func (a *app) installService(ctx context.Context, s service) error {
	if err := hostcheck.Root("install-service"); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if s.none {
		a.say("This host was not booted by systemd. Let it run at boot, after its network is up:")
		_, err := fmt.Fprintln(a.Out, shellQuote(self), "start clusters --restart-always")
		return err
	}
	unit := unitFile(self, a.serviceEnvironment())
	if have, err := os.ReadFile(s.unit); err != nil || !bytes.Equal(have, unit) {
		if err := replaceFile(s.unit, unit); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(s.wants), 0o755); err != nil {
		return err
	}
	if err := os.Symlink(s.unit, s.wants); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	a.say("Installed %s: clusters with \"restart: always\" start when the host boots.", s.unit)
	return s.tell(ctx)
}

func (a *app) uninstallService(ctx context.Context, s service) error {
	if err := hostcheck.Root("uninstall-service"); err != nil {
		return err
	}
	for _, path := range []string{s.wants, s.unit} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	a.say("Nothing starts clusters when the host boots.")
	return s.tell(ctx)
}

// tell makes a running systemd read its units again.
func (s service) tell(ctx context.Context) error {
	if !s.reload {
		return nil
	}
	if out, err := exec.CommandContext(ctx, "systemctl", "daemon-reload").CombinedOutput(); err != nil {
		return &mended{fmt.Errorf("systemctl daemon-reload: %w: %s", err, bytes.TrimSpace(out)), "systemctl daemon-reload"}
	}
	return nil
}

// serviceEnvironment is what moves skiff's directories, as it is now.
func (a *app) serviceEnvironment() []string {
	var env []string
	for _, key := range []string{supervise.EnvStateDir, supervise.EnvRunDir, supervise.EnvLibexec, supervise.EnvEtcDir} {
		if value := a.getenv(key); value != "" {
			env = append(env, key+"="+value)
		}
	}
	return env
}

// unitFile is the unit. Its clusters outlive it: they are in cgroups of their
// own, which systemd does not know.
func unitFile(program string, env []string) []byte {
	var b strings.Builder
	b.WriteString(`[Unit]
Description=Kubernetes clusters of skiff
After=network-online.target local-fs.target
Wants=network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
TimeoutStartSec=10min
TimeoutStopSec=10min
`)
	for _, e := range env {
		fmt.Fprintf(&b, "Environment=%s\n", unitQuote(e))
	}
	// A host is never slower than while it boots.
	fmt.Fprintf(&b, "ExecStart=%[1]s start clusters --restart-always --wait 9m\nExecStop=%[1]s stop clusters --restart-always\n", unitQuote(program))
	b.WriteString("\n[Install]\nWantedBy=multi-user.target\n")
	return []byte(b.String())
}

// unitQuote makes one word of a unit's line.
func unitQuote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`).Replace(s) + `"`
}

// replaceFile writes path by one rename.
func replaceFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
