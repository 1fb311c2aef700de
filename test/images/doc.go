// Command images builds the container images that the tests, the conformance
// suite and the demo need, without a registry: programs come from the Go
// module proxy, the rest from Debian's packages. The result is one docker
// archive for `skiff load image-archive`, with every image under the name
// that upstream's suite asks for.
//
//	images -o FILE [-set demo|vm|robustness|csi|test]
package main
