// Command vm boots Debian's kernel in qemu's software emulation, from a disk
// that hack/test-vm.sh made with debootstrap, and lets test/vm/guest run the
// checks inside: a cluster on pure cgroup2 under systemd, then a reboot, then
// a power cut. It follows the guest's findings on a serial port, keeps them
// beside the disk, and writes a report of all kernels that were tried.
//
// The guest has no network device. Its only ways out are two serial ports: the
// console, and the findings. By the latter comes also what the cluster, the
// kernel and the dataplane said when a check had failed: evidence.log.
package main
