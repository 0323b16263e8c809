#!/usr/bin/env bash
# on_gpu.sh COMMAND...: runs it where lathe ($LATHE) can use a GPU; else says why not, and 77: skipped.
set -euo pipefail
chosen=$("${LATHE:?the lathe program}" devices | tail -n 1)
case $chosen in
*"chooses cuda"*) exec "$@" ;;
*)
    echo "skipped: $chosen"
    exit 77
    ;;
esac
