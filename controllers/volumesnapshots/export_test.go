package volumesnapshots

// For tests beside the controllers that import this package.
var (
	Definitions = definitions
	EnsureKinds = ensureKinds
	Files       = files
)
