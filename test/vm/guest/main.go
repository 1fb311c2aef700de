// Command guest runs inside the emulated machine of test/vm: it makes a
// cluster, looks at it, reboots the machine, looks whether the cluster came
// back, cuts the power, and looks again. What it finds it writes to the second
// serial port, one JSON object a line.
//
// It is started at every boot, and knows by a file which one it is. With
// arguments it speaks SCTP instead: see sctp.go.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/test/vm/report"
)

const (
	findings  = "/dev/ttyS1"
	statePath = "/var/lib/skiff-vm/state.json"
	// here is where hack/test-vm.sh puts images, samples and programs.
	here = "/opt/skiff"
)

// state is what one boot tells the next.
type state struct {
	Boot   int    `json:"boot"`
	BootID string `json:"bootID"`
	Looks  looks  `json:"looks"`
	Diary  string `json:"diary"`
	// Said is what create said.
	Said string `json:"said"`
}

// guest writes findings of one boot.
type guest struct {
	out   io.Writer
	state state
	// failed says that a check failed on which all others rest.
	failed bool
	// over says that there is nothing to check after this boot.
	over bool
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) == 3 {
		return speak(os.Args[1], os.Args[2])
	}
	port, err := os.OpenFile(findings, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer port.Close()
	g := &guest{out: port}
	if err := g.load(); err != nil {
		return err
	}
	g.state.Boot++
	boots := []func(){g.first, g.afterReboot, g.afterPowerCut}
	boots[g.state.Boot-1]()
	if g.failed || g.over || g.state.Boot == len(boots) {
		g.tell(report.Finding{Last: true})
		return command("systemctl", "poweroff")
	}
	if err := g.save(); err != nil {
		return err
	}
	if g.state.Boot == 1 {
		return command("systemctl", "reboot")
	}
	// The kernel resets the machine at once: nothing is stopped, nothing is
	// written back.
	return os.WriteFile("/proc/sysrq-trigger", []byte("b"), 0)
}

func (g *guest) load() error {
	data, err := os.ReadFile(statePath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(data, &g.state)
}

// save outlives a power cut.
func (g *guest) save() error {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	g.state.BootID = string(id)
	data, err := json.Marshal(g.state)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(statePath), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(statePath, data, 0o644); err != nil {
		return err
	}
	f, err := os.Open(filepath.Dir(statePath))
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

func (g *guest) tell(f report.Finding) {
	f.Boot = g.state.Boot
	line, err := json.Marshal(f)
	if err != nil {
		panic(err) // strings and numbers
	}
	fmt.Fprintln(g.out, string(line))
}

func (g *guest) fact(name, value string) { g.tell(report.Finding{Fact: name, Value: value}) }

// check does one check and says whether it holds; if not, also what the
// evidence says.
func (g *guest) check(name string, do func() (seen string, err error), more ...evidence) bool {
	began := time.Now()
	f := report.Finding{Check: name}
	var err error
	f.Value, err = do()
	f.Seconds = time.Since(began).Seconds()
	if err != nil {
		f.Error = err.Error()
	}
	g.tell(f)
	if err != nil {
		g.secure(append(more, ofAll)...)
	}
	return err == nil
}

// must is a check on which all others rest.
func (g *guest) must(name string, do func() (seen string, err error)) bool {
	g.failed = g.failed || !g.check(name, do)
	return !g.failed
}
