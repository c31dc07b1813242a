#!/usr/bin/env bash
# Installs what some slow tests need of the system, and skip without: Chromium, which runs the scripts of pages.
set -euo pipefail

for name in chromium chromium-browser google-chrome google-chrome-stable chrome; do
    if command -v "$name" >/dev/null; then exit 0; fi
done

as=()
[ "$(id -u)" = 0 ] || as=(sudo -n)
get_chromium() {
    "${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium
}
echo "==> installing chromium with apt-get"
get_chromium || { "${as[@]}" apt-get update && get_chromium; } || {
    echo "error: apt-get could not install chromium" >&2
    exit 1
}
