// Command sh is /bin/sh of the busybox stand-in. Debian's busybox has the
// messages that specs compare with upstream's image, but drops variables
// whose names have a dash, which other specs look for: with such a variable
// in the environment this is bash, otherwise busybox.
package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
)

var shellName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func main() {
	shell := "/usr/bin/busybox"
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); !shellName.MatchString(name) {
			shell = "/usr/bin/bash-static"
		}
	}
	args := append([]string{"sh"}, os.Args[1:]...)
	if os.Args[0] == "/bin/sh" {
		args[0] = os.Args[0]
	}
	err := syscall.Exec(shell, args, os.Environ())
	fmt.Fprintf(os.Stderr, "sh: %s: %v\n", shell, err)
	os.Exit(127)
}
