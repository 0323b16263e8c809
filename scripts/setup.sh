#!/usr/bin/env bash
# Installs what the build needs and does not find, from the distribution's packages (Debian, Ubuntu). Says what it
# installs; uses sudo only when not root. A second run finds everything and does nothing.
set -euo pipefail

packages=(build-essential cmake pkg-config libhdf5-dev libjansson-dev libpcre2-dev libutf8proc-dev libyaml-dev
          libxxhash-dev libzstd-dev zlib1g-dev libcmocka-dev)
# Several processes: Open MPI, unless there is an MPI already.
command -v mpicc >/dev/null && command -v mpirun >/dev/null || packages+=(libopenmpi-dev openmpi-bin)

is_installed() {
    [ "$(dpkg-query -W -f='${db:Status-Abbrev}' "$1" 2>/dev/null)" = "ii " ]
}

# Elsewhere than on Debian and its kin CMake reports what is missing, by name.
if ! command -v dpkg-query >/dev/null; then
    echo "setup: no dpkg here; please have these (or their like) installed: ${packages[*]}"
    exit 0
fi

missing=()
for package in "${packages[@]}"; do
    is_installed "$package" || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
    echo "setup: every needed package is installed"
    exit 0
fi

echo "setup: installing ${missing[*]}"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "setup: not root and no sudo; please have an administrator run: apt-get install ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
echo "setup: done"
