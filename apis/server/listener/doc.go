// Package listener joins several listeners into one.
package listener
