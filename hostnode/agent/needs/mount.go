package needs

import (
	"time"

	"k8s.io/mount-utils"
)

// Mounter is upstream's mounter for this machine, with reasons in its errors.
func Mounter() mount.Interface { return explain(mount.New(""), theHost()) }

func explain(upstream mount.Interface, h host) mount.Interface {
	m := mounter{upstream, h}
	// Upstream asks the mounter whether it can, for nfs.
	if force, ok := upstream.(mount.MounterForceUnmounter); ok {
		return forceUnmounter{m, force}
	}
	return m
}

type mounter struct {
	mount.Interface
	host host
}

func (m mounter) because(err error, kind string) error {
	if err == nil || kind == "" {
		return err
	}
	return because(err, m.host.filesystem(kind))
}

func (m mounter) Mount(source, target, kind string, options []string) error {
	return m.because(m.Interface.Mount(source, target, kind, options), kind)
}

func (m mounter) MountSensitive(source, target, kind string, options, secret []string) error {
	return m.because(m.Interface.MountSensitive(source, target, kind, options, secret), kind)
}

func (m mounter) MountSensitiveWithoutSystemd(source, target, kind string, options, secret []string) error {
	return m.because(m.Interface.MountSensitiveWithoutSystemd(source, target, kind, options, secret), kind)
}

func (m mounter) MountSensitiveWithoutSystemdWithMountFlags(source, target, kind string, options, secret, flags []string) error {
	return m.because(m.Interface.MountSensitiveWithoutSystemdWithMountFlags(source, target, kind, options, secret, flags), kind)
}

// forceUnmounter is a mounter that can unmount what does not answer.
type forceUnmounter struct {
	mounter
	upstream mount.MounterForceUnmounter
}

func (m forceUnmounter) UnmountWithForce(target string, timeout time.Duration) error {
	return m.upstream.UnmountWithForce(target, timeout)
}
