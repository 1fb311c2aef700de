package clockjump

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"
	"time"
)

const beClock = "SKIFF_TEST_BE_A_CLOCK"

// TestMain is, in a child, a program that tells the time when asked, while
// other threads read it all the time.
func TestMain(m *testing.M) {
	if os.Getenv(beClock) == "" {
		os.Exit(m.Run())
	}
	for range runtime.NumCPU() {
		go func() {
			for {
				_ = time.Now()
				time.Sleep(time.Microsecond)
			}
		}()
	}
	begin := time.Now()
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		now := time.Now()
		fmt.Println(now.Unix(), int64(now.Sub(begin)/time.Millisecond))
	}
}

func TestAProcessHasAClockOfItsOwn(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), beClock+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}()
	lines := bufio.NewScanner(out)
	ask := func() (wall, monotonic time.Duration) {
		fmt.Fprintln(in)
		if !lines.Scan() {
			t.Fatal("the child ended")
		}
		var seconds, ms int64
		if _, err := fmt.Sscan(lines.Text(), &seconds, &ms); err != nil {
			t.Fatal(err)
		}
		return time.Duration(seconds-time.Now().Unix()) * time.Second, time.Duration(ms) * time.Millisecond
	}
	ask()
	for _, offset := range []time.Duration{time.Hour, -time.Hour, 0} {
		t.Run("by "+strconv.Itoa(int(offset/time.Hour))+" hours", func(t *testing.T) {
			if err := Set(cmd.Process.Pid, offset); err != nil {
				t.Fatal(err)
			}
			wall, monotonic := ask()
			if diff := wall - offset; diff < -time.Second || diff > time.Second {
				t.Errorf("its clock is %v apart, want %v", wall, offset)
			}
			if monotonic < 0 || monotonic > time.Minute {
				t.Errorf("its monotonic clock jumped: %v", monotonic)
			}
		})
	}
}
