#!/usr/bin/env bash
# on_gpu.sh COMMAND...: runs it where lathe ($LATHE) can use a GPU; else says why not, and 77: skipped. With
# LATHE_EMULATED the GPU is part of the program, and no driver knows of it.
set -euo pipefail
[ -z "${LATHE_EMULATED:-}" ] || exec "$@"
chosen=$("${LATHE:?the lathe program}" devices | tail -n 1)
case $chosen in
*"chooses cuda"*) exec "$@" ;;
*)
    echo "skipped: $chosen"
    exit 77
    ;;
esac
