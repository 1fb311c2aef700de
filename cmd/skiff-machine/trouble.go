package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"time"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/apis/storage"
	"github.com/skiff-k8s/skiff/hostnode/agent"
)

// tellTrouble leaves word for the host of what etcd cannot serve, or that it
// does not answer.
func tellTrouble(t *storage.Trouble) {
	tell(machinev1alpha1.TroubleFile, machinev1alpha1.Trouble{Servers: t.Servers, File: t.File, Damaged: t.Damaged, Cause: t.Err.Error()})
	slog.Error("no etcd to serve from", "servers", t.Servers, "file", t.File, "damaged", t.Damaged, "error", t.Err)
}

// tellDamage leaves word for the host of what the kubelet does not start with,
// for as long as it does not.
func tellDamage(d *agent.Damage) {
	if d != nil {
		tell(machinev1alpha1.KubeletTroubleFile, machinev1alpha1.Trouble{File: d.File, Damaged: true, Cause: d.Err.Error()})
	} else if err := os.Remove(machinev1alpha1.KubeletTroubleFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		slog.Error("end of a trouble not told to the host", "error", err)
	}
}

// tell leaves word for the host: who starts or lists the cluster says it to the
// user. It replaces the file by one rename.
func tell(file string, t machinev1alpha1.Trouble) {
	t.Since = time.Now().UTC()
	data, err := json.Marshal(t)
	if err == nil {
		err = os.WriteFile(file+".new", data, 0o644)
	}
	if err == nil {
		err = os.Rename(file+".new", file)
	}
	if err != nil {
		slog.Error("trouble not told to the host", "error", err)
	}
}
