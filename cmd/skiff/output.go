package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// outputs are the values of --output.
var outputs = []string{"name", "wide", "json", "yaml"}

// outputFlag adds -o. Its value is checked before the command runs.
func (a *app) outputFlag(cmd *cobra.Command, output *string) {
	cmd.Flags().StringVarP(output, "output", "o", "name", "one of "+strings.Join(outputs, ", "))
	a.completeFlag(cmd, "output", func(*cobra.Command) []string { return outputs })
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if !slices.Contains(outputs, *output) {
			return &usageError{cmd, fmt.Errorf("--output %q: not one of %s", *output, strings.Join(outputs, ", "))}
		}
		return nil
	}
}

// row is an object that can be listed.
type row interface {
	// name is the object's line with -o name.
	name() string
	// cells are the object's line in a table.
	cells(now time.Time) []string
}

// print writes rows to Out.
func printRows[R row](a *app, output string, header []string, rows []R) error {
	switch output {
	case "json", "yaml":
		return a.printObject(output, rows)
	case "wide":
		w := tabwriter.NewWriter(a.Out, 0, 8, 3, ' ', 0)
		fmt.Fprintln(w, strings.Join(header, "\t"))
		for _, r := range rows {
			fmt.Fprintln(w, strings.Join(r.cells(a.now()), "\t"))
		}
		return w.Flush()
	default:
		for _, r := range rows {
			if _, err := fmt.Fprintln(a.Out, r.name()); err != nil {
				return err
			}
		}
		return nil
	}
}

// printObject writes v to Out as json or yaml.
func (a *app) printObject(output string, v any) error {
	out, err := json.MarshalIndent(v, "", "  ")
	if err == nil && output == "yaml" {
		out, err = yaml.JSONToYAML(out)
	} else {
		out = append(out, '\n')
	}
	if err != nil {
		return err
	}
	_, err = a.Out.Write(out)
	return err
}

// age is how long ago t was, in kubectl's way.
func age(t, now time.Time) string {
	d := max(now.Sub(t), 0)
	switch {
	case t.IsZero():
		return "-"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
