package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/healthz"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/apis/server/loopback"
)

// loopbackAge is upstream's validity of the loopback certificate.
const loopbackAge = (3*365 + 1) * 24 * time.Hour

// applyLoopback gives c a privileged client of itself. Requests go by
// function call; the certificate is for the rare client that copies only
// addresses and credentials from the config and comes over TLS.
func applyLoopback(c *genericapiserver.Config, lb *loopback.Transport) error {
	expires := time.Now().Add(loopbackAge)
	cert, key, err := loopbackCertificate(expires)
	if err != nil {
		return fmt.Errorf("make loopback certificate: %w", err)
	}
	const name = genericapiserver.LoopbackClientServerNameOverride
	provider, err := dynamiccertificates.NewStaticSNICertKeyContent("self-signed loopback", cert, key, name)
	if err != nil {
		return fmt.Errorf("load loopback certificate: %w", err)
	}
	c.SecureServing.SNICerts = append([]dynamiccertificates.SNICertKeyContentProvider{provider}, c.SecureServing.SNICerts...)
	config, err := c.SecureServing.NewLoopbackClientConfig(uuid.NewString(), cert)
	if err != nil {
		return fmt.Errorf("make loopback client: %w", err)
	}
	config.ContentConfig.ContentType = "application/vnd.kubernetes.protobuf"
	config.DisableCompression = true
	config.UserAgent = userAgent()
	config.WrapTransport = lb.Wrap
	c.LoopbackClientConfig = config

	check := healthz.NamedCheck("loopback-serving-certificate", func(*http.Request) error {
		if time.Now().After(expires) {
			return genericoptions.LoopbackCertificateExpiredError{}
		}
		return nil
	})
	c.AddHealthzChecks(check)
	c.AddLivezChecks(check)
	return nil
}

// userAgent is kube-apiserver's: managedFields name it as the manager of what
// the server writes itself.
func userAgent() string {
	_, details, _ := strings.Cut(rest.DefaultKubernetesUserAgent(), "/")
	return "kube-apiserver/" + details
}

// loopbackCertificate is self-signed and ECDSA: upstream's RSA key takes up
// to 200 ms of CPU at every start.
func loopbackCertificate(expires time.Time) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, nil, err
	}
	const name = genericapiserver.LoopbackClientServerNameOverride
	template := x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		DNSNames:              []string{name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              expires,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, private.Public(), private)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), nil
}
