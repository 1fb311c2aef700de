// Package imports holds no code: its test keeps the import directions of the
// repository. Imports point one way, from the commands over what runs on a
// host to the API types, and the small programs stay small.
package imports
