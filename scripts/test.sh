#!/usr/bin/env bash
# Builds Lathe and runs every test; closes with ctest's summary.
#
#   scripts/test.sh              the ordinary build
#   scripts/test.sh --sanitize   the same tests under AddressSanitizer and UndefinedBehaviorSanitizer
#   scripts/test.sh --long       long drills too: hundreds of kills, thousands of damaged files, minutes of fuzzing
#
# Tests that want real tokenizers and models look for them in the folder that LATHE_TEST_ASSETS names, and are skipped,
# saying so, when it is unset. Other arguments are handed to ctest (for example -R tokenizer).
set -euo pipefail
cd "$(dirname "$0")/.."

build=build/release
options=(-DCMAKE_BUILD_TYPE=Release)
arguments=()
for argument in "$@"; do
    case $argument in
    --sanitize)
        build=build/sanitize
        options=(-DCMAKE_BUILD_TYPE=RelWithDebInfo -DLATHE_SANITIZE=ON)
        ;;
    --long) export LATHE_LONG_TESTS=1 ;;
    --help | -h)
        sed -n '2,10s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    *) arguments+=("$argument") ;;
    esac
done

scripts/setup.sh
cmake -S . -B "$build" "${options[@]}"
cmake --build "$build" --parallel "$(nproc)"

[ -n "${LATHE_TEST_ASSETS:-}" ] || echo "LATHE_TEST_ASSETS is not set: tests with real tokenizers and models will be skipped"
if [ -n "${LATHE_LONG_TESTS:-}" ]; then scripts/fuzz.sh; fi
ctest --test-dir "$build" --output-on-failure "${arguments[@]}"
