package pki

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// renewAt is when a certificate is due to be made anew: after two thirds of
// its life, which leaves a third for clocks that jump, processes that read
// their files once in a while, and hosts that sleep.
func renewAt(cert *x509.Certificate) time.Time {
	life := cert.NotAfter.Sub(cert.NotBefore)
	return cert.NotBefore.Add(life - life/3)
}

// Due is when Ensure has something to renew: the earliest time at which one of
// the certificates that cfg's authorities have signed is due. Certificates of
// others, such as those of a user's own etcd, are not looked at.
func Due(cfg Config) (time.Time, error) {
	own := authorities(cfg.Dir)
	var due time.Time
	for _, dir := range cfg.Dirs() {
		certs, err := readCertificates(dir)
		if err != nil {
			return time.Time{}, err
		}
		for _, cert := range certs {
			if cert.IsCA || !signedBy(cert, own) {
				continue
			}
			if at := renewAt(cert); due.IsZero() || at.Before(due) {
				due = at
			}
		}
	}
	if due.IsZero() {
		return due, fmt.Errorf("no certificates in %s", cfg.Dir)
	}
	return due, nil
}

// Dirs are those with files of the cluster.
func (cfg Config) Dirs() []string {
	dirs := []string{cfg.Dir}
	for _, n := range cfg.Nodes {
		dirs = append(dirs, n.Dir)
	}
	return dirs
}

// authorities are the CAs whose keys are in dir.
func authorities(dir string) []*x509.Certificate {
	certs, _ := readCertificates(dir) // Due reads the directory once more, and says what is wrong
	var found []*x509.Certificate
	for _, c := range certs {
		if c.IsCA {
			found = append(found, c)
		}
	}
	return found
}

func signedBy(cert *x509.Certificate, by []*x509.Certificate) bool {
	for _, ca := range by {
		if cert.CheckSignatureFrom(ca) == nil {
			return true
		}
	}
	return false
}

// readCertificates reads the .crt files of a directory. What is none is left
// to Ensure.
func readCertificates(dir string) ([]*x509.Certificate, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read certificates: %w", err)
	}
	var certs []*x509.Certificate
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".crt") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read certificates: %w", err)
		}
		block, _ := pem.Decode(data)
		if block == nil {
			continue
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			certs = append(certs, cert)
		}
	}
	return certs, nil
}
