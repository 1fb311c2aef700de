// Package hostdns makes the names of one cluster resolve on the host, and
// takes that back.
//
// There are two ways. Where systemd-resolved answers the host's questions, it
// is told over D-Bus that the cluster's domain is asked for on the cluster's
// device; resolved forgets that with the device. Elsewhere, the cluster's DNS
// becomes the first nameserver of /etc/resolv.conf, in marked lines above all
// others: taking these lines away gives back the file as it was, whatever
// others have written below them since, and whoever was killed in between.
// The cluster's DNS then gets every question of the host, and hands those that
// are not its own to the nameservers below the lines; hosts on which that
// would not work, or loop, are refused with the reason.
//
// Package supervise calls it: Check before a cluster is made, Ensure when its
// DNS answers, Remove when it is deleted.
package hostdns
