package main

import "github.com/skiff-k8s/skiff/test/apiserver/compose"

func main() { compose.Main() }
