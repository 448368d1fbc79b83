// Package suite is a module to build the upstream test suite in; see tools.go.
package suite
