package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	// caValidity and leafValidity are lifetimes from the making.
	caValidity   = 10 * 365 * 24 * time.Hour
	leafValidity = 365 * 24 * time.Hour
	// backdate allows for clocks that are behind ours, or are set back: by an
	// hour when somebody mistook the time zone. Nobody would be let in then.
	backdate = 24 * time.Hour
)

// spec is a certificate as it should be.
type spec struct {
	commonName   string
	organization []string
	usages       []x509.ExtKeyUsage
	names        []string
	addresses    []netip.Addr
}

func (s spec) ips() []net.IP {
	ips := make([]net.IP, 0, len(s.addresses))
	for _, a := range s.addresses {
		ips = append(ips, a.AsSlice())
	}
	return ips
}

// authority is a CA with its key.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// pair is a certificate and its key as PEM.
type pair struct{ cert, key []byte }

// newAuthority makes a self-signed CA.
func newAuthority(name string, now time.Time) (*authority, pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, pair{}, fmt.Errorf("make key of CA %s: %w", name, err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, pair{}, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		DNSNames:              []string{name},
		NotBefore:             now.Add(-backdate).UTC(),
		NotAfter:              now.Add(caValidity).UTC(),
		KeyUsage:              x509.KeyUsageKeyEncipherment | x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, pair{}, fmt.Errorf("sign CA %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, pair{}, fmt.Errorf("sign CA %s: %w", name, err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, pair{}, err
	}
	certPEM := encodeCert(der)
	return &authority{cert: cert, key: key, pem: certPEM}, pair{certPEM, keyPEM}, nil
}

// issue makes a key and has the CA sign its certificate.
func (a *authority) issue(s spec, now time.Time) (pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, fmt.Errorf("make key of %s: %w", s.commonName, err)
	}
	serial, err := newSerial()
	if err != nil {
		return pair{}, err
	}
	notAfter := now.Add(leafValidity).UTC()
	if notAfter.After(a.cert.NotAfter) {
		notAfter = a.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: s.commonName, Organization: s.organization},
		DNSNames:              s.names,
		IPAddresses:           s.ips(),
		NotBefore:             now.Add(-backdate).UTC(),
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           s.usages,
		BasicConstraintsValid: true,
	}, a.cert, key.Public(), a.key)
	if err != nil {
		return pair{}, fmt.Errorf("sign certificate of %s: %w", s.commonName, err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return pair{}, err
	}
	return pair{encodeCert(der), keyPEM}, nil
}

// valid says whether the pair on disk is what s wants and stays valid long
// enough.
func (a *authority) valid(p pair, s spec, now time.Time) bool {
	cert, key, err := parsePair(p)
	if err != nil || !key.PublicKey.Equal(cert.PublicKey) {
		return false
	}
	if cert.CheckSignatureFrom(a.cert) != nil {
		return false
	}
	if now.Before(cert.NotBefore) || !now.Before(renewAt(cert)) {
		return false
	}
	return cert.Subject.CommonName == s.commonName &&
		slices.Equal(cert.Subject.Organization, s.organization) &&
		slices.Equal(cert.ExtKeyUsage, s.usages) &&
		slices.Equal(cert.DNSNames, s.names) &&
		slices.EqualFunc(cert.IPAddresses, s.ips(), net.IP.Equal)
}

// parseAuthority reads a CA back.
func parseAuthority(p pair) (*authority, error) {
	cert, key, err := parsePair(p)
	if err != nil {
		return nil, err
	}
	if !cert.IsCA || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("not a CA with its own key")
	}
	return &authority{cert: cert, key: key, pem: p.cert}, nil
}

func parsePair(p pair) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(p.cert)
	if block == nil {
		return nil, nil, errors.New("certificate is not PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, err
	}
	key, err := parseKey(p.key)
	if err != nil {
		return nil, nil, err
	}
	return cert, key, nil
}

func parseKey(data []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("key is not PEM")
	}
	return x509.ParseECPrivateKey(block.Bytes)
}

func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	return serial.Add(serial, big.NewInt(1)), nil
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

func encodePublicKey(key crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// write puts data at path when it is not there yet, by a rename, so that a
// reader sees the old file or the new one.
func write(path string, data []byte, mode os.FileMode) error {
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, data) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, mode); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
