package main

import (
	"encoding/json"
	"log/slog"
	"os"
	"time"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/apis/storage"
)

// tellTrouble leaves word for the host: who starts or lists the cluster says
// it to the user. It replaces the file by one rename.
func tellTrouble(t *storage.Trouble) {
	data, err := json.Marshal(machinev1alpha1.Trouble{File: t.File, Damaged: t.Damaged, Cause: t.Err.Error(), Since: time.Now().UTC()})
	if err == nil {
		err = os.WriteFile(machinev1alpha1.TroubleFile+".new", data, 0o644)
	}
	if err == nil {
		err = os.Rename(machinev1alpha1.TroubleFile+".new", machinev1alpha1.TroubleFile)
	}
	if err != nil {
		slog.Error("trouble not told to the host", "error", err)
	}
	slog.Error("etcd cannot serve its data", "file", t.File, "damaged", t.Damaged, "error", t.Err)
}
