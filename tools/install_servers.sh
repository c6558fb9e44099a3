#!/bin/sh
# Install the servers and tools the tests run against, where this can be done (apt-get as root or by sudo without
# a password). Elsewhere say what is missing: the tests that need it are skipped. Never fails.
set -eu

missing=""
need() { # PROGRAM PACKAGES: a program in PATH or the system folders
    for folder in $(echo "$PATH" | tr ':' ' ') /usr/local/sbin /usr/sbin /sbin; do
        [ -x "$folder/$1" ] && return
    done
    missing="$missing $2"
}
need_file() { # PATTERN PACKAGES: a file where Debian puts it
    for file in $1; do
        [ -e "$file" ] && return
    done
    missing="$missing $2"
}

need Orthanc orthanc
need_file "/usr/share/orthanc/plugins/libOrthancDicomWeb.so*" orthanc-dicomweb
need redis-server redis-server
need storescp dcmtk
need dciodvfy dicom3tools
need chromium chromium
need_file "/usr/lib/postgresql/*/bin/postgres" postgresql
need strace strace

[ -z "$missing" ] && exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "not installed, tests that need it are skipped:$missing (no apt-get here)" >&2
    exit 0
fi
if [ "$(id -u)" = 0 ]; then
    root=""
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    root="sudo -n"
else
    echo "not installed, tests that need it are skipped:$missing" >&2
    echo "to install: sudo apt-get install --no-install-recommends$missing" >&2
    exit 0
fi

# Debian starts services when it installs them. The tests start their own: ask it not to, for this one time.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $root tee "$policy" >/dev/null
    $root chmod 755 "$policy"
    trap '$root rm -f "$policy"' EXIT
fi

echo "installing$missing" >&2
apt() {
    $root env DEBIAN_FRONTEND=noninteractive timeout 600 apt-get -qq -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 "$@"
}
install() {
    # shellcheck disable=SC2086 - a list of words
    apt install -y --no-install-recommends $1 >/dev/null
}
if ! install "$missing"; then
    apt update || true
    # One by one: a package this release does not have must not keep the others away.
    for package in $missing; do
        install "$package" || echo "not installed, tests that need it are skipped: $package" >&2
    done
fi
exit 0
