package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	v1alpha1 "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
)

// version and commit are set by the linker.
var (
	version = v1alpha1.KubernetesVersion
	commit  = ""
)

func (a *app) versionCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of skiff and of its Kubernetes",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch output {
			case "":
				_, err := fmt.Fprintf(a.Out, "skiff %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
				return err
			case "json", "yaml":
				return a.printObject(output, map[string]string{
					"skiff": version, "kubernetes": v1alpha1.KubernetesVersion, "commit": commit,
					"go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH,
				})
			default:
				return &usageError{cmd, fmt.Errorf("--output %q: not one of json, yaml", output)}
			}
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "json or yaml")
	return cmd
}
