#!/usr/bin/env bash
# Starts a weir command as root when that needs no question, else as it is:
# weir then says itself what it leaves out.
set -eu
if [ "$(id -u)" != 0 ] && sudo -n true 2>/dev/null; then
	exec sudo -n "$@"
fi
exec "$@"
