package config

import _ "embed"

// Example is a commented file that says all there is to say, with the defaults.
//
//go:embed example.yaml
var Example string
