//go:build tools

// Package tools names the programs that scripts/mirror builds out of this module.
package tools

import (
	_ "github.com/containernetworking/plugins/plugins/meta/flannel"
)
