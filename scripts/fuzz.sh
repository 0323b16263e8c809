#!/usr/bin/env bash
# Builds the libFuzzer targets with clang and runs each for a while, from its committed seeds. Needs clang.
#
#   scripts/fuzz.sh [SECONDS_PER_TARGET]      default 60
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
if ! command -v clang >/dev/null; then
    echo "fuzz: skipped, clang is not installed"
    exit 0
fi
CC=clang cmake -S . -B build/fuzz -DCMAKE_BUILD_TYPE=RelWithDebInfo -DLATHE_FUZZ=ON -DLATHE_SANITIZE=ON >/dev/null
cmake --build build/fuzz --parallel "$(nproc)"
for target in build/fuzz/tests/fuzz_*; do
    [ -x "$target" ] && [ -f "$target" ] || continue
    name=$(basename "$target")
    found=build/fuzz/corpus/$name
    mkdir -p "$found"
    echo "fuzz: $name for $seconds s"
    "$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=0 -verbosity=0 \
        -artifact_prefix="build/fuzz/$name-" "$found" "tests/fuzz/corpus/${name#fuzz_}"
done
echo "fuzz: no crash, hang or leak found"
