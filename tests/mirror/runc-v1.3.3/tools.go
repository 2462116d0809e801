//go:build tools

// Package tools names the programs that scripts/mirror builds out of this module.
package tools

import (
	_ "github.com/opencontainers/runc"
)
