package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"
)

const (
	// patience is for anything that takes seconds on a real machine: the
	// emulated one is fifty times slower, and others use its cores.
	patience = 20 * time.Minute
	// again is between two looks at something that has no event for us: a
	// kubectl takes seconds of the machine's time.
	again = 10 * time.Second
)

// command runs a program to its end.
func command(name string, args ...string) error {
	_, err := output(name, args...)
	return err
}

// output runs a program to its end and gives what it printed.
func output(name string, args ...string) (string, error) { return outputOf("", name, args...) }

func outputOf(stdin, name string, args ...string) (string, error) {
	out, _, err := outputs(stdin, name, args...)
	return out, err
}

func outputs(stdin, name string, args ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	// A supervisor that a command leaves behind has the pipes too.
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return out.String(), errOut.String(), fmt.Errorf("%s: %w: %s", strings.Join(append([]string{name}, args...), " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), errOut.String(), nil
}

func skiff(args ...string) (string, error) { return output("skiff", args...) }

func kubectl(args ...string) (string, error) { return output("kubectl", args...) }

// passes runs one test of a program of go test -c; to be skipped is not to pass.
func passes(program, test string) error {
	said, err := output(here+"/"+program, "-test.v", "-test.run", "^"+test+"$")
	if err == nil && !strings.Contains(said, "--- PASS: "+test) {
		err = errors.New("the test was not run")
	}
	if err != nil {
		err = fmt.Errorf("%w: %s", err, said)
	}
	return err
}

func apply(manifest string) error {
	_, err := outputOf(manifest, "kubectl", "apply", "-f", "-")
	return err
}

// get reads a field of an object by JSONPath.
func get(object, path string) (string, error) {
	return kubectl("get", object, "--ignore-not-found", "-o", "jsonpath="+path)
}

// until asks again and again until what it asks for holds.
func until(what func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := what()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("after %v: %w", patience, err)
		}
		time.Sleep(again)
	}
}

// expectField compares a field of an object.
func expectField(object, path, want string) error {
	have, err := get(object, path)
	if err == nil && have != want {
		err = fmt.Errorf("%s %s: have %q, want %q", object, path, have, want)
	}
	return err
}

// untilPhase waits for a Pod to come so far.
func untilPhase(pod, phase string) error {
	_, err := kubectl("wait", "pod/"+pod, "--for=jsonpath={.status.phase}="+phase, "--timeout="+patience.String())
	return err
}

// fetch asks a web server once.
func fetch(url string) (string, error) {
	client := http.Client{Timeout: time.Minute}
	defer client.CloseIdleConnections()
	response, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("get %s: %s: %s", url, response.Status, body)
	}
	return strings.TrimSpace(string(body)), err
}

// words is a file's content as one line.
func words(path string) (string, error) {
	data, err := os.ReadFile(path)
	return strings.Join(strings.Fields(string(data)), " "), err
}

// expectWords compares a file with what it should say.
func expectWords(path, want string) error {
	have, err := words(path)
	if err == nil && have != want {
		err = fmt.Errorf("%s: have %q, want %q", path, have, want)
	}
	return err
}
