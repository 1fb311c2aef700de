/* SPDX-License-Identifier: GPL-2.0 */
/*
 * No program: the object from which dataplane/lb/table creates the maps that
 * the socket and packet programs are then loaded with.
 */
#include "lb.h"

char _license[] SEC("license") = "GPL";
