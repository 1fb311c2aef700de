package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// imageRow is what users see of an image in the host's store; `skiff-machine
// images` prints more.
type imageRow struct {
	Image string `json:"name"`
	ID    string `json:"id"`
	// Size is that of the image's blobs, in bytes.
	Size     int64     `json:"size"`
	LoadedAt time.Time `json:"loadedAt"`
}

var imageHeader = []string{"IMAGE", "ID", "SIZE", "LOADED"}

func (i imageRow) name() string { return i.Image }

func (i imageRow) cells(now time.Time) []string {
	id := strings.TrimPrefix(i.ID, "sha256:")
	return []string{i.Image, id[:min(len(id), 12)], fmt.Sprintf("%.1fMB", float64(i.Size)/1e6), age(i.LoadedAt, now)}
}

// imageRows reads what the tool prints.
func imageRows(out []byte) ([]imageRow, error) {
	rows := []imageRow{}
	if err := json.Unmarshal(out, &rows); err != nil {
		return nil, fmt.Errorf("skiff-machine images: %w", err)
	}
	if rows == nil {
		rows = []imageRow{} // null
	}
	return rows, nil
}

func (a *app) getImagesCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "images",
		Aliases: []string{"image"},
		Short:   "List the images that are loaded for all nodes",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out, err := a.imagesTool(cmd.Context(), "list")
			if err != nil {
				return a.about("get images", err)
			}
			rows, err := imageRows(out)
			if err != nil {
				return a.about("get images", err)
			}
			if len(rows) == 0 {
				a.say("No images are loaded.")
			}
			return printRows(a, output, imageHeader, rows)
		},
	}
	a.outputFlag(cmd, &output)
	return cmd
}
