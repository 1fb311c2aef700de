// Package docker reads images from a Docker daemon over its API, so that no
// docker client need be installed. It knows local sockets and plain TCP; what
// else the docker client can reach, it names the way around.
package docker
