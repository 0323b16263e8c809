#!/usr/bin/env bash
# Fails when a C, C++ or CUDA file is not formatted as .clang-format says. With --fix it formats them.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v clang-format >/dev/null; then
    echo "format: skipped, clang-format is not installed"
    exit 0
fi
mapfile -t files < <(git ls-files '*.c' '*.h' '*.cpp' '*.cu' '*.cuh')
if [ "${1:-}" = --fix ]; then
    clang-format -i "${files[@]}"
else
    clang-format --dry-run --Werror "${files[@]}"
    echo "format: ${#files[@]} files are formatted"
fi
