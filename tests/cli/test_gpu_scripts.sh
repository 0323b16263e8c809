#!/usr/bin/env bash
# scripts/gpu_check.sh and scripts/gpu_bench.sh where there is no GPU: how they end, and what their tables and JSON make
# of results. With LATHE_LONG_TESTS also: everything compiles and links with nvcc, and the kernel tests run, by the same
# script, on the emulated GPU.
set -euo pipefail
source_dir=${LATHE_SOURCE_DIR:?the source tree}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export LATHE_GPU_BUILD=$work/build CUDA_VISIBLE_DEVICES='' # no GPU, also where there is one
unset CUDACXX
cd "$source_dir"

fail() {
    echo "FAILED: $*" >&2
    exit 1
}
# refuse CODE WORDS COMMAND...
refuse() {
    local code=$1 words=$2 got=0
    shift 2
    "$@" >"$work/out" 2>"$work/err" || got=$?
    [ "$got" = "$code" ] || fail "exit $got, not $code: $* -- $(cat "$work/out" "$work/err")"
    grep -q -- "$words" "$work/err" || fail "'$words' is not in: $(cat "$work/err")"
}
has() { grep -qE -- "$1" "$work/out" || fail "'$1' is not in: $(cat "$work/out")"; }

echo "--- the scripts as text"
for script in scripts/gpu_*.sh tests/gpu/*.sh; do
    bash -n "$script" || fail "$script"
done
if command -v shellcheck >/dev/null; then
    shellcheck -x scripts/gpu_*.sh tests/gpu/*.sh || fail "shellcheck"
else
    echo "skipped: shellcheck is not installed"
fi
if command -v python3 >/dev/null; then
    python3 -c 'import ast; ast.parse(open("tests/gpu/bench_peers.py").read())' || fail "bench_peers.py"
fi

echo "--- no GPU, no or an old compiler, mistakes"
for script in scripts/gpu_check.sh scripts/gpu_bench.sh; do
    start=$SECONDS
    refuse 3 "nothing was .*: .*\(driver\|GPU\)" $script
    [ $((SECONDS - start)) -lt 20 ] || fail "$script took $((SECONDS - start)) s to find no GPU"
    refuse 2 "unknown" $script --wrong
    $script --help | grep "Exit code: 0" >/dev/null || fail "$script --help"
    printf '#!/bin/sh\necho "Cuda compilation tools, release 11.8, V11.8.89"\n' >"$work/nvcc"
    chmod +x "$work/nvcc"
    CUDACXX=$work/nvcc refuse 3 "of CUDA 11.8; 12.5 or newer" $script --build-only
done

echo "--- what becomes of results"
json() { # FILE EXPRESSION: about d, what the file holds
    command -v python3 >/dev/null || return 0
    python3 -c 'import json, sys; d = json.load(open(sys.argv[1])); sys.exit(not eval(sys.argv[2]))' "$1" "$2" ||
        fail "not so in $1: $2: $(cat "$1")"
}
# shellcheck disable=SC2034 # common.sh reads them
card='A "card"' capability=90 memory=80.0 driver=13.0 cuda_version=13.0 versions=none command_line='a\b'
# shellcheck source=tests/gpu/common.sh
source tests/gpu/common.sh
mkdir -p "$build"
printf '%s\t%s\t%s\t%s\t%s\n' kernels matmul pass 1.5 "3 cases" kernels norm FAIL 0.1 'it "is" off\here' \
    models parity skipped 0 "" >"$work/check.tsv"
report_check "$work/check.tsv" "$work/check.json" >"$work/out"
has "^kernels +norm +FAIL"
has "^1 passed, 1 failed, 1 skipped"
json "$work/check.json" 'd["failed"] == 1 and d["stages"][1]["detail"] == "it \"is\" off\\here" and d["card"] == "A \"card\""'
json "$work/check.json" 'd["stages"][2] == {"stage": "models", "name": "parity", "result": "skipped", "seconds": 0, "detail": ""}'
{
    printf 'card\tbf16 peak\tdata sheet\t1000\tTFLOP/s\ncopy\tceiling\tcopy ceiling\t4000\tGB/s\ncard\tmultiprocessors\tdriver\t132\t\n'
    printf 'matmul\tqkv NT\tlathe\t600\tTFLOP/s\nmatmul\tqkv NT\tcublas\t750\tTFLOP/s\n'
    printf 'table\t{90, LT_MATMUL_NT, 1e9, LT_MATMUL_CUBLAS, 1.25, "measured"},\n'
    printf 'train\tm\tlathe\t500000\ttokens/s\ntrain\tm\twork\t0.8\tGFLOP/token\ntrain\tm\thf\t400000\ttokens/s\n'
    printf 'train\tm\twork\t0.8\tGFLOP/token\ndecode\tm\tlathe\t200\ttokens/s\ndecode\tm\twork\t10\tGB/token\n'
} >"$work/bench.tsv"
echo "peers: skipped" >"$work/notes"
report_bench "$work/bench.tsv" "$work/notes" "$work/bench.json" >"$work/out"
has "^matmul +qkv NT +600 TFLOP/s +cublas 750 \(0.80\)"
has "^train +m MFU +40 % +hf 32 \(1.25\)"
has "^decode +m +200 tokens/s +bandwidth bound 400 \(0.50\)"
has "^ +\{90, LT_MATMUL_NT"
has "^peers: skipped"
json "$work/bench.json" 'd["figures"][4]["lathe_over_it"] == 0.8 and len(d["matmul_table"]) == 1 and d["notes"] == ["peers: skipped"]'

if [ -n "${LATHE_LONG_TESTS:-}" ]; then
    echo "--- everything compiles with nvcc; the script on the emulated GPU"
    if find_nvcc && new_enough "$cuda_version"; then
        scripts/gpu_check.sh --build-only >"$work/out" 2>&1 || fail "$(tail -n 30 "$work/out")"
        scripts/gpu_bench.sh --build-only >"$work/out" 2>&1 || fail "$(tail -n 30 "$work/out")"
    else
        echo "skipped: no nvcc of CUDA 12.5 or newer"
    fi
    LATHE_GPU_MINUTES=30 scripts/gpu_check.sh --emulated >"$work/out" 2>&1 || fail "$(tail -n 30 "$work/out")"
    has "^kernels .*pass"
    json "$build/check.json" 'd["failed"] == 0 and d["passed"] > 3'
fi
echo "all well"
