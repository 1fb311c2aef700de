package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

// imageRow is an image of the host's store, as `skiff-machine images list`
// prints it.
type imageRow struct {
	Image string `json:"name"`
	ID    string `json:"id,omitempty"`
	Size  int64  `json:"size,omitempty"`
}

func (i imageRow) name() string { return i.Image }

func (i imageRow) cells(time.Time) []string {
	return []string{i.Image, orDash(i.ID), fmt.Sprintf("%.1f MB", float64(i.Size)/1e6)}
}

func (a *app) getImagesCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "images",
		Aliases: []string{"image"},
		Short:   "List the images that are loaded for all nodes",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out, err := a.imagesTool(cmd.Context(), "list", "-o", "json")
			if err != nil {
				return a.about("get images", err)
			}
			rows := []imageRow{}
			if err := json.Unmarshal(out, &rows); err != nil {
				return fmt.Errorf("get images: %w", err)
			}
			if len(rows) == 0 {
				a.say("No images are loaded.")
			}
			return printRows(a, output, []string{"IMAGE", "ID", "SIZE"}, rows)
		},
	}
	a.outputFlag(cmd, &output)
	return cmd
}
