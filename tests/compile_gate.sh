#!/usr/bin/env bash
# What nvcc makes of kernels/cuda, for every kind of GPU, with no GPU needed. Fails on: an error or warning of nvcc or the
# host's compiler; a register spilled to memory; a stack frame; more registers than a kernel's budget; a ptxas warning.
#
#   tests/compile_gate.sh [FILE.cu ...]      all of kernels/cuda by default; exit 77: no nvcc here
#
# Environment: NVCC; LATHE_GATE_ARCHS="80 90a" for fewer architectures.
set -euo pipefail
cd "$(dirname "$0")/.."

nvcc=${NVCC:-nvcc}
if ! command -v "$nvcc" >/dev/null; then
    echo "compile gate: skipped, nvcc is not installed"
    exit 77
fi
export nvcc

# Registers a thread may use, the first pattern that a kernel's (mangled) name matches. A block's threads share 65536: a
# budget says how many threads an SM is to hold.
export budgets="
attention_.*backward 255
attention_ 255
matmul_ 255
. 128"
# Kernels that may have a stack frame, and why:
export stack_allowed="^$"

files=("$@")
[ ${#files[@]} -gt 0 ] || files=(kernels/cuda/*.cu)
known=$("$nvcc" --list-gpu-code)
standard="80 90a 100 120"
[ -z "${LATHE_LONG_TESTS:-}" ] || standard="80 86 89 90a 100 120"
archs=()
for arch in ${LATHE_GATE_ARCHS:-$standard}; do
    grep -q "^sm_${arch%a}$" <<<"$known" && archs+=("$arch")
done
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
export logs

# compile ARCH FILE: the device's code, and once for each file the host's too
compile() {
    local log options=(-cubin)
    log=$logs/$(basename "$2" .cu).$1
    [ "$3" = host ] && options=(-c -Xcompiler=-Wall,-Wextra,-Werror)
    if ! "$nvcc" -std=c++17 -I. -O3 -lineinfo "${options[@]}" -gencode "arch=compute_$1,code=sm_$1" \
        -Xptxas=-v,-warn-spills -o "$log.out" "$2" >"$log" 2>&1; then
        echo "nvcc failed" >>"$log"
    fi
    rm -f "$log.out"
}
export -f compile

for file in "${files[@]}"; do
    part=host
    for arch in "${archs[@]}"; do
        echo "$arch $file $part"
        part=device
    done
done | xargs -P "$(nproc)" -L 1 bash -c 'compile "$@"' compile

# Every line of ptxas -v is either understood or reported.
judge() {
    awk -v file="$1" -v arch="$2" -v budgets="$budgets" -v stack_allowed="$stack_allowed" '
        BEGIN { lines = split(budgets, budget, "\n") }
        function complain(what) { print "FAIL " file " sm_" arch ": " what; failures++ }
        function allowed(name,    i, pair) {
            for (i = 1; i <= lines; i++)
                if (split(budget[i], pair, " ") == 2 && name ~ pair[1]) return pair[2]
        }
        /Compiling entry function/ { split($0, quoted, "\047"); kernel = quoted[2]; kernels++; next }
        /Function properties for/ { owner = $NF; next }
        /bytes stack frame/ {
            if ($1 > 0 && owner !~ stack_allowed) complain(owner ": " $1 " bytes of stack")
            if ($5 > 0 || $9 > 0) complain(owner ": spills " $5 " bytes")
            next
        }
        /Used [0-9]+ registers/ {
            for (i = 1; i < NF; i++) if ($i == "Used") registers = $(i + 1)
            if (registers > worst) worst = registers
            if (registers > allowed(kernel)) complain(kernel ": " registers " registers, budget " allowed(kernel))
            next
        }
        /bytes gmem|Compile time|Overriding/ || /^[ \t]*$/ { next }
        { complain($0) }
        END {
            printf "%-36s sm_%-5s %3d kernels, %3d registers at most\n", file, arch, kernels, worst
            exit failures > 0
        }' "$logs/$(basename "$1" .cu).$2"
}

failed=0
for file in "${files[@]}"; do
    for arch in "${archs[@]}"; do
        judge "$file" "$arch" || failed=1
    done
done
[ $failed -eq 0 ] && echo "compile gate: ${#files[@]} files for sm_${archs[*]}: no spills, no stack, registers within budget"
exit $failed
