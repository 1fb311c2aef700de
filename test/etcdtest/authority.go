package etcdtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Authority signs certificates for one address, for servers and clients alike.
type Authority struct {
	dir  string
	ip   net.IP
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes one that keeps its files in dir.
func NewAuthority(dir string, ip net.IP) (*Authority, error) {
	a := &Authority{dir: dir, ip: ip}
	template := &x509.Certificate{IsCA: true, KeyUsage: x509.KeyUsageCertSign}
	var err error
	a.cert, a.key, err = a.sign("ca", template)
	return a, err
}

// CA is the file of its own certificate.
func (a *Authority) CA() string { return a.file("ca.crt") }

// Pair signs a certificate and returns its files.
func (a *Authority) Pair(name string) (cert, key string, err error) {
	_, _, err = a.sign(name, &x509.Certificate{
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{a.ip},
	})
	return a.file(name + ".crt"), a.file(name + ".key"), err
}

func (a *Authority) file(name string) string { return filepath.Join(a.dir, name) }

// sign completes the template; an authority's first certificate is its own.
func (a *Authority) sign(name string, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template.SerialNumber, template.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	template.BasicConstraintsValid = true
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return cert, key, errors.Join(
		a.write(name+".crt", &pem.Block{Type: "CERTIFICATE", Bytes: der}),
		a.write(name+".key", &pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}))
}

func (a *Authority) write(name string, block *pem.Block) error {
	return os.WriteFile(a.file(name), pem.EncodeToMemory(block), 0o600)
}
