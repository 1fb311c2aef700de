package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// serverEnv makes this program the server, in a process of its own: it blocks
// in the kernel unseen by Go's scheduler.
const serverEnv = "LOADGEN_TEST_SERVE"

func TestMain(m *testing.M) {
	if on := os.Getenv(serverEnv); on != "" {
		fmt.Fprintln(os.Stderr, serve(on))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// unused is an address on which nobody listens.
func unused(t *testing.T) string {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func startServer(t *testing.T) string {
	on := unused(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), serverEnv+"="+on)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "listening\n" {
		t.Fatalf("server says %q, %v", line, err)
	}
	return on
}

// say gives commands and returns the answers.
func say(t *testing.T, commands ...string) []answerLine {
	t.Helper()
	var out bytes.Buffer
	if err := obey(strings.NewReader(strings.Join(commands, "\n")), &out); err != nil {
		t.Fatal(err)
	}
	var answers []answerLine
	for d := json.NewDecoder(&out); d.More(); {
		var a answerLine
		if err := d.Decode(&a); err != nil {
			t.Fatal(err)
		}
		answers = append(answers, a)
	}
	if len(answers) != len(commands) {
		t.Fatalf("%d answers to %d commands", len(answers), len(commands))
	}
	return answers
}

func TestCallMeasuresAServer(t *testing.T) {
	server := startServer(t)
	got := say(t, "targets "+server+" "+server, "connect 50", "exchange 100", "stream 20", "until up 1000")
	for i, a := range got {
		if a.Error != "" {
			t.Errorf("command %d: %s", i, a.Error)
		}
	}
	for i, want := range map[int]int{1: 50, 2: 100} {
		if n := len(got[i].Samples); n != want {
			t.Errorf("command %d: %d samples, want %d", i, n, want)
		}
		sum := int64(0)
		for _, s := range got[i].Samples {
			sum += int64(s)
		}
		if sum == 0 || sum > got[i].Elapsed {
			t.Errorf("command %d: %d ns of samples in %d ns", i, sum, got[i].Elapsed)
		}
	}
	if got[3].Bytes < uint64(len(bulk)) {
		t.Errorf("stream: %d bytes arrived", got[3].Bytes)
	}
	if at := got[4].At; at == 0 || at > monotonic() {
		t.Errorf("until up: at %d, now is %d", at, monotonic())
	}
}

func TestCallSaysWhatIsWrong(t *testing.T) {
	nobody := "targets " + unused(t)
	for name, c := range map[string]struct {
		commands []string
		want     string
	}{
		"no targets":           {[]string{"connect 1"}, "no targets"},
		"not an address":       {[]string{"targets example.com:80"}, "want an IPv4 address"},
		"too many":             {[]string{nobody, "connect 100000000"}, "want a number"},
		"unknown command":      {[]string{nobody, "dance 1"}, "no such command"},
		"nobody listens":       {[]string{nobody, "connect 1"}, "connection refused"},
		"nobody ever listens":  {[]string{nobody, "until up 20"}, "not within 20ms"},
		"a word is no command": {[]string{"connect"}, "want a command and its argument"},
	} {
		t.Run(name, func(t *testing.T) {
			got := say(t, c.commands...)
			if last := got[len(got)-1].Error; !strings.Contains(last, c.want) {
				t.Errorf("error %q, want %q in it", last, c.want)
			}
		})
	}
}

func TestUntilDownEndsWhenNobodyAnswers(t *testing.T) {
	if got := say(t, "targets "+unused(t), "until down 1000"); got[1].Error != "" || got[1].At == 0 {
		t.Errorf("%+v", got[1])
	}
}
