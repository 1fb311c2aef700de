package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	"k8s.io/kubernetes/pkg/kubeapiserver/authorizer/modes"
	"k8s.io/kubernetes/plugin/pkg/admission/noderestriction"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/apis/server/listener"
)

// serverOptions are kube-apiserver's command line for this control plane: what
// kubeadm gives it, and in addition encryption at rest, kubelets' serving
// certificates verified, anonymous requests only for health.
func serverOptions(ctx context.Context, cfg Config) (options.CompletedOptions, error) {
	cp := cfg.ControlPlane
	o := options.NewServerRunOptions()
	generic := o.GenericServerRunOptions

	if err := utilfeature.DefaultMutableFeatureGate.SetFromMap(cp.FeatureGates); err != nil {
		return options.CompletedOptions{}, fmt.Errorf("featureGates: %w", err)
	}
	if err := generic.ComponentGlobalsRegistry.Set(); err != nil {
		return options.CompletedOptions{}, fmt.Errorf("featureGates: %w", err)
	}
	utilfeature.DefaultMutableFeatureGate.AddMetrics()
	generic.ComponentGlobalsRegistry.AddMetrics()
	if len(cp.NodeIPs) == 0 {
		return options.CompletedOptions{}, errors.New("nodeIPs: none given")
	}
	generic.AdvertiseAddress = net.IP(cp.NodeIPs[0].AsSlice())

	// Upstream waits up to a minute for watches that nobody tells to end.
	generic.ShutdownWatchTerminationGracePeriod = watchGrace

	o.SecureServing.Listener = listener.Join(cfg.Listeners)
	o.SecureServing.ServerCert.CertKey.CertFile = cfg.pki(machinev1alpha1.APIServerCertFile)
	o.SecureServing.ServerCert.CertKey.KeyFile = cfg.pki(machinev1alpha1.APIServerKeyFile)

	store := &o.Etcd.StorageConfig
	store.Transport.ServerList = cfg.Storage.Endpoints()
	store.Transport.TrustedCAFile, store.Transport.CertFile, store.Transport.KeyFile = cfg.Storage.TLSFiles()
	// Compaction and health checks are done on the shared client.
	store.CompactionInterval = 0
	o.Etcd.SkipHealthEndpoints = true
	o.Etcd.EncryptionProviderConfigFilepath = cfg.pki(machinev1alpha1.EncryptionConfigFile)

	if err := authentication(o, cfg); err != nil {
		return options.CompletedOptions{}, err
	}
	o.Authorization.Modes = []string{modes.ModeNode, modes.ModeRBAC}
	o.Admission.GenericAdmission.EnablePlugins = []string{noderestriction.PluginName}
	o.APIEnablement.RuntimeConfig = cp.RuntimeConfig
	if cp.AuditPolicyFile != "" {
		o.Audit.PolicyFile = cp.AuditPolicyFile
		o.Audit.LogOptions.Path = cp.AuditLogFile
	}

	// Its defaults change nothing, but are logged as an error.
	o.Metrics = nil

	o.AllowPrivileged = true
	o.EnableAggregatorRouting = true
	o.ServiceClusterIPRanges = machinev1alpha1.Join(cp.ServiceSubnets)
	o.KubeletConfig.PreferredAddressTypes = []string{"InternalIP", "ExternalIP", "Hostname"}
	o.KubeletConfig.TLSClientConfig.CertFile = cfg.pki(machinev1alpha1.APIServerKubeletCertFile)
	o.KubeletConfig.TLSClientConfig.KeyFile = cfg.pki(machinev1alpha1.APIServerKubeletKeyFile)
	o.KubeletConfig.TLSClientConfig.CAFile = cfg.pki(machinev1alpha1.CACertFile)

	name, err := cache.NewInformerName("kube-apiserver")
	if err != nil {
		return options.CompletedOptions{}, err
	}
	o.InformerName = name

	completed, err := o.Complete(ctx)
	if err != nil {
		return options.CompletedOptions{}, err
	}
	return completed, utilerrors.NewAggregate(completed.Validate())
}

// watchGrace is in how much time the watches are ended at a shutdown.
const watchGrace = 100 * time.Millisecond

// anonymous lets health checkers in without a credential, and nobody else;
// RBAC still decides what they may read.
const anonymous = `apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
anonymous:
  enabled: true
  conditions:
  - path: /livez
  - path: /readyz
  - path: /healthz
`

func authentication(o *options.ServerRunOptions, cfg Config) error {
	if err := os.MkdirAll(cfg.RunDir, 0o700); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	file := filepath.Join(cfg.RunDir, "authentication.yaml")
	if err := os.WriteFile(file, []byte(anonymous), 0o600); err != nil {
		return fmt.Errorf("write authentication configuration: %w", err)
	}
	a := o.Authentication
	a.AuthenticationConfigFile = file
	a.ClientCert.ClientCA = cfg.pki(machinev1alpha1.CACertFile)
	a.BootstrapToken.Enable = true

	a.ServiceAccounts.Issuers = []string{"https://kubernetes.default.svc." + cfg.ControlPlane.DNSDomain}
	a.ServiceAccounts.KeyFiles = []string{cfg.pki(machinev1alpha1.ServiceAccountPubFile)}
	o.ServiceAccountSigningKeyFile = cfg.pki(machinev1alpha1.ServiceAccountKeyFile)

	a.RequestHeader.ClientCAFile = cfg.pki(machinev1alpha1.FrontProxyCACertFile)
	a.RequestHeader.AllowedNames = []string{"front-proxy-client"}
	a.RequestHeader.UsernameHeaders = []string{"X-Remote-User"}
	a.RequestHeader.GroupHeaders = []string{"X-Remote-Group"}
	a.RequestHeader.ExtraHeaderPrefixes = []string{"X-Remote-Extra-"}
	o.ProxyClientCertFile = cfg.pki(machinev1alpha1.FrontProxyClientCertFile)
	o.ProxyClientKeyFile = cfg.pki(machinev1alpha1.FrontProxyClientKeyFile)
	return nil
}

// pki is the place of one of the machine API's files in this server's PKIDir.
func (c Config) pki(file string) string {
	return filepath.Join(c.PKIDir, filepath.Base(file))
}
