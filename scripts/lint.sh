#!/usr/bin/env bash
# The form of the code: gofumpt, vet (with and without cgo), staticcheck, tidy modules.
set -eu
cd "$(dirname "$0")/.."
bad=0
unformatted=$(git ls-files -co --exclude-standard '*.go' | xargs -r go tool gofumpt -l)
if [ -n "$unformatted" ]; then
	echo "gofumpt would change:"; echo "$unformatted"; bad=1
fi
go vet ./... || bad=1
CGO_ENABLED=0 go vet ./... || bad=1
go tool staticcheck ./... || bad=1
go mod tidy -diff || { echo "go mod tidy would change go.mod or go.sum"; bad=1; }
exit $bad
