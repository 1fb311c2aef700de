package pid1

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// stopBound is how long all services may take to stop, one after another,
// before the machine goes down with them: the grace of pods, which the node's
// process bounds at half a minute, and etcd's end.
const stopBound = 45 * time.Second

// askAgain spaces repeated stop signals: Go programs that have just started
// ignore most kinds.
const askAgain = 100 * time.Millisecond

// defaultPath has skiff's own programs first: containerd must find our runc.
const defaultPath = machine.LibexecDir + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Services keeps the machine's services running. All of it happens on the
// goroutine of Run.
type Services struct {
	log      *slog.Logger
	sockets  map[string]int
	services []*service
	due      chan *service
	// stable has the services that have run for stableRun since they were
	// started for the last time, by their process.
	stable   chan int
	stopping bool
}

// service is one program: running (pid > 0), or waiting for its restart.
//
//	starting → running → ended → (back-off) → running …
//	any, when the machine stops → its turn → asked → gone
type service struct {
	machine.Service
	pid     int
	started time.Time
	backoff Backoff
	crashes CrashLoop
	output  *os.File
	// asked to stop.
	asked bool
}

// NewServices prepares the services of cfg; sockets are the inherited
// descriptors by name.
func NewServices(cfg *machine.MachineConfiguration, sockets map[string]int, log *slog.Logger) (*Services, error) {
	s := &Services{log: log, sockets: sockets, due: make(chan *service, len(cfg.Services)), stable: make(chan int)}
	if err := os.MkdirAll(cfg.LogDir, 0o755); err != nil {
		return nil, fmt.Errorf("create log directory %s: %w", cfg.LogDir, err)
	}
	for _, spec := range cfg.Services {
		output, err := openLog(filepath.Join(cfg.LogDir, spec.Name+".log"))
		if err != nil {
			return nil, fmt.Errorf("open log of service %s: %w", spec.Name, err)
		}
		s.services = append(s.services, &service{Service: spec, output: output, crashes: NewCrashLoop(machine.CrashLoopFile(spec.Name), spec.Name)})
	}
	return s, nil
}

// ParseSockets reads the value of SKIFF_LISTEN_FDS, "name=fd,name=fd", and
// keeps those descriptors from programs that are not to have them.
func ParseSockets(value string) (map[string]int, error) {
	sockets := map[string]int{}
	for entry := range strings.SplitSeq(value, ",") {
		if entry == "" {
			continue
		}
		name, number, _ := strings.Cut(entry, "=")
		fd, err := strconv.Atoi(number)
		if err != nil || fd < 3 || name == "" {
			return nil, fmt.Errorf("read %s: entry %q is not name=fd", machine.ListenFDs, entry)
		}
		syscall.CloseOnExec(fd)
		sockets[name] = fd
	}
	return sockets, nil
}

// Run starts the services and keeps them running until SIGTERM or SIGINT;
// then it stops them in the opposite order, each when the one before it is
// gone, and returns when none is left, or after stopBound.
func (s *Services) Run() {
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	check := time.NewTicker(logCheck)
	defer check.Stop()
	var deadline, again <-chan time.Time

	for _, svc := range s.services {
		s.start(svc)
	}
	for {
		select {
		case <-children:
			s.reap()
		case svc := <-s.due:
			s.start(svc)
		case pid := <-s.stable:
			s.endCrashLoop(pid)
		case <-check.C:
			s.rotateLogs()
		case sig := <-stop:
			if !s.stopping {
				s.log.Info("stopping", "signal", sig.String())
				s.stopping = true
				deadline = time.After(stopBound)
				ticks := time.NewTicker(askAgain)
				defer ticks.Stop()
				again = ticks.C
			}
		case <-again:
			s.askAgain()
		case <-deadline:
			s.log.Warn("services did not stop in time", "after", stopBound)
			return
		}
		if s.stopping && !s.stopLast() {
			s.log.Info("stopped")
			return
		}
	}
}

func (s *Services) start(svc *service) {
	if s.stopping {
		return
	}
	svc.started = time.Now()
	pid, err := s.exec(svc)
	if err != nil {
		delay := svc.backoff.After(0)
		s.tell(svc, 0, err.Error())
		s.log.Error("service does not start", "service", svc.Name, "error", err, "again", delay)
		s.later(svc, delay)
		return
	}
	svc.pid = pid
	s.log.Info("service started", "service", svc.Name, "pid", pid)
	if svc.crashes.told {
		time.AfterFunc(stableRun, func() { s.stable <- pid })
	}
}

// tell counts an end of a service, and leaves word for the host of one that
// keeps ending.
func (s *Services) tell(svc *service, ran time.Duration, last string) {
	if err := svc.crashes.Ended(ran, time.Now(), last); err != nil {
		s.log.Warn("crash loop not told to the host", "service", svc.Name, "error", err)
	}
}

// endCrashLoop takes the word back when the process runs still.
func (s *Services) endCrashLoop(pid int) {
	for _, svc := range s.services {
		if svc.pid != pid {
			continue
		}
		if err := svc.crashes.End(); err != nil {
			s.log.Warn("end of a crash loop not told to the host", "service", svc.Name, "error", err)
		}
	}
}

// later has a buffer for every service and each waits at most once, so the
// timer never blocks.
func (s *Services) later(svc *service, delay time.Duration) {
	time.AfterFunc(delay, func() { s.due <- svc })
}

func (s *Services) exec(svc *service) (int, error) {
	if len(svc.Args) == 0 {
		return 0, errors.New("no program given")
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		return 0, err
	}
	defer null.Close()
	files := []uintptr{null.Fd(), svc.output.Fd(), svc.output.Fd()}
	var names []string
	for _, name := range svc.Sockets {
		fd, ok := s.sockets[name]
		if !ok {
			return 0, fmt.Errorf("socket %s was not handed over", name)
		}
		names = append(names, fmt.Sprintf("%s=%d", name, len(files)))
		files = append(files, uintptr(fd))
	}
	return syscall.ForkExec(svc.Args[0], svc.Args, &syscall.ProcAttr{
		Dir:   "/",
		Env:   environment(svc.Env, names),
		Files: files,
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
}

// environment of a service: a small fixed one, its own, and its sockets.
func environment(own map[string]string, sockets []string) []string {
	env := map[string]string{"PATH": defaultPath, "HOME": "/root", "LANG": "C.UTF-8"}
	maps.Copy(env, own)
	if len(sockets) > 0 {
		env[machine.ListenFDs] = strings.Join(sockets, ",")
	}
	list := make([]string, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	return list
}

// reap collects every ended process: services, and the orphans of the whole
// machine, which the kernel gives to process 1.
func (s *Services) reap() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		for _, svc := range s.services {
			if svc.pid == pid {
				s.ended(svc, status)
			}
		}
	}
}

func (s *Services) ended(svc *service, status syscall.WaitStatus) {
	svc.pid = 0
	ran := time.Since(svc.started)
	if s.stopping {
		s.log.Info("service stopped", "service", svc.Name, "status", describe(status))
		return
	}
	delay := svc.backoff.After(ran)
	s.tell(svc, ran, describe(status))
	s.log.Warn("service ended", "service", svc.Name, "status", describe(status), "ran", ran, "again", delay)
	s.later(svc, delay)
}

func describe(status syscall.WaitStatus) string {
	if status.Signaled() {
		return status.Signal().String()
	}
	return fmt.Sprintf("exit %d", status.ExitStatus())
}

// stopLast asks the last service that runs to stop, once: those before it are
// what it needs. False says that none runs.
func (s *Services) stopLast() bool {
	for _, svc := range slices.Backward(s.services) {
		if svc.pid == 0 {
			continue
		}
		if !svc.asked {
			svc.asked = true
			// Only the program itself: what it started (containers' shims)
			// is its own to stop, or goes with the machine.
			_ = syscall.Kill(svc.pid, svc.stopSignal())
		}
		return true
	}
	return false
}

// askAgain repeats a service's own stop signal; a second SIGTERM is another
// word to many programs.
func (s *Services) askAgain() {
	for _, svc := range s.services {
		if svc.pid > 0 && svc.asked && svc.StopSignal != 0 {
			_ = syscall.Kill(svc.pid, svc.stopSignal())
		}
	}
}

func (svc *service) stopSignal() syscall.Signal {
	if svc.StopSignal == 0 {
		return syscall.SIGTERM
	}
	return syscall.Signal(svc.StopSignal)
}

func (s *Services) rotateLogs() {
	for _, svc := range s.services {
		if err := Rotate(svc.output); err != nil {
			s.log.Warn("log not rotated", "service", svc.Name, "error", err)
		}
	}
}
