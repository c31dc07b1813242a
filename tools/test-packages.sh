#!/usr/bin/env bash
# Installs what some tests need of the system, and skip without: Chromium, which runs the scripts of pages, and
# PostgreSQL, which gateways may share. The tests start servers of their own: the system's is neither made nor started.
set -euo pipefail

missing=()
has_one_of() {
    for name in "$@"; do
        if command -v "$name" >/dev/null; then return 0; fi
    done
    return 1
}
has_one_of chromium chromium-browser google-chrome google-chrome-stable chrome || missing+=(chromium)
has_one_of initdb /usr/lib/postgresql/*/bin/initdb || missing+=(postgresql)
[ ${#missing[@]} -gt 0 ] || exit 0

as=()
[ "$(id -u)" = 0 ] || as=(sudo -n)
get() {
    "${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}
get_all() {
    # PostgreSQL's package makes and starts a cluster of its own, unless this says not to.
    if [[ " ${missing[*]} " = *" postgresql "* ]]; then
        get postgresql-common
        "${as[@]}" sed -i '/^#\? *create_main_cluster/d' /etc/postgresql-common/createcluster.conf
        echo "create_main_cluster = false" | "${as[@]}" tee -a /etc/postgresql-common/createcluster.conf >/dev/null
    fi
    get "${missing[@]}"
}
echo "==> installing ${missing[*]} with apt-get"
get_all || { "${as[@]}" apt-get update && get_all; } || {
    echo "error: apt-get could not install ${missing[*]}" >&2
    exit 1
}
