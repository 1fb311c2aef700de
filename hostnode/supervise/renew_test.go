package supervise

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"k8s.io/utils/clock"
	testclock "k8s.io/utils/clock/testing"
)

// renewing is a renewal of a cluster whose certificates were made at made.
func renewing(t *testing.T, c clock.Clock, made time.Time) (r renewal, told chan []string) {
	t.Helper()
	rec := plannedRecord(t)
	r = renewal{dir: t.TempDir(), rec: rec, clock: c, log: slog.New(slog.DiscardHandler)}
	if err := ensureCredentialsAt(r.dir, rec, made); err != nil {
		t.Fatal(err)
	}
	told = make(chan []string, 10)
	r.renewed = func(_ context.Context, raw []byte, files []string) error {
		if have, err := os.ReadFile(filepath.Join(r.dir, "kubeconfig")); string(have) != string(raw) || err != nil {
			t.Errorf("told of another kubeconfig: %v", err)
		}
		told <- files
		return nil
	}
	return r, told
}

func admin(t *testing.T, r renewal) *x509.Certificate {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(r.dir, "pki", "admin.crt"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// running runs a renewal until the test ends.
func running(t *testing.T, r renewal) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestCertificatesAreRenewedWhenTheyAreDueAndUsersAreTold(t *testing.T) {
	made := time.Now()
	c := testclock.NewFakeClock(made)
	r, told := renewing(t, c, made)
	if err := writeJSON(filepath.Join(r.dir, kubeconfigsFile), []string{"/home/me/.kube/config"}); err != nil {
		t.Fatal(err)
	}
	running(t, r)
	old := admin(t, r)
	due := old.NotBefore.Add(old.NotAfter.Sub(old.NotBefore) * 2 / 3)
	for c.Now().Before(due.Add(-2 * time.Hour)) {
		eventually(t, "it waits", c.HasWaiters)
		c.Step(24 * time.Hour)
		if c.Now().After(due) {
			break
		}
		if now := admin(t, r); !now.Equal(old) {
			t.Fatalf("renewed at %v, due at %v", c.Now(), due)
		}
	}
	select {
	case files := <-told:
		if !slices.Equal(files, []string{"/home/me/.kube/config"}) {
			t.Errorf("told of %v", files)
		}
	case <-time.After(15 * time.Second):
		t.Fatal("not renewed")
	}
	if now := admin(t, r); !now.NotAfter.After(old.NotAfter) {
		t.Errorf("ends at %v, as before", now.NotAfter)
	}
}

func TestCertificatesThatSomebodyPutsThereAreRenewedAtOnce(t *testing.T) {
	r, told := renewing(t, clock.RealClock{}, time.Now())
	running(t, r)
	eventually(t, "new ones stay", func() bool { return admin(t, r).NotAfter.After(time.Now().Add(300 * 24 * time.Hour)) })
	// Ones that ended a year ago, by the same authority.
	other := r
	other.rec = plannedRecord(t)
	for _, file := range []string{"admin.crt", "admin.key"} {
		if err := os.Remove(filepath.Join(r.dir, "pki", file)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	if err := ensureCredentialsAt(r.dir, other.rec, time.Now().Add(-2*365*24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-told:
	case <-time.After(15 * time.Second):
		t.Fatal("not renewed")
	}
	eventually(t, "they are renewed", func() bool { return admin(t, r).NotAfter.After(time.Now().Add(300 * 24 * time.Hour)) })
}

func TestARenewalThatFailsIsTriedAgainSoon(t *testing.T) {
	now := time.Now()
	r, _ := renewing(t, testclock.NewFakeClock(now.Add(300*24*time.Hour)), now)
	if err := os.WriteFile(filepath.Join(r.dir, "pki", "ca.crt"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := r.step(t.Context()); got != retryRenewal {
		t.Errorf("again after %v", got)
	}
	r, _ = renewing(t, testclock.NewFakeClock(now), now)
	if got := r.step(t.Context()); got != recheck {
		t.Errorf("with new ones, again after %v", got)
	}
}
