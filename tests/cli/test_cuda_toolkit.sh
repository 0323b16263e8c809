#!/usr/bin/env bash
# What the build says about CUDA, and decides: for toolkits and GPUs of all kinds, played by scripts.
set -u
source_dir=${LATHE_SOURCE_DIR:?}
command -v cmake >/dev/null || { echo "cmake is not here: skipped"; exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
failures=0

# toolkit VERSION ARCH...: a compiler of that version that knows these
toolkit() {
    printf '#!/bin/sh\ncase $1 in\n--version) echo "Cuda compilation tools, release %s, V%s.0" ;;\n' "$1" "$1"
    shift
    printf -- '--list-gpu-code) printf "%%s\\n" %s ;;\nesac\n' "$(printf 'sm_%s ' "$@")"
}
toolkit 12.4 80 90 >old
toolkit 12.6 80 86 89 90 >middle
toolkit 13.0 75 80 86 90 100 120 >new
printf '#!/bin/sh\nexit 9\n' >no_gpu
printf '#!/bin/sh\necho 7.5\n' >turing
printf '#!/bin/sh\necho 12.0; echo 12.0\n' >blackwell
chmod +x ./*

# says NAME PATTERN ARGUMENT...: configuring with these arguments prints the pattern
says() {
    local name=$1 pattern=$2
    shift 2
    rm -rf build
    cmake -S "$source_dir" -B build "$@" >out.txt 2>&1
    tr '\n' ' ' <out.txt | tr -s ' ' | grep -E -- "$pattern" >/dev/null && return
    echo "FAIL $name: no '$pattern' in: $(grep -A4 -E 'CUDA|rror' out.txt | head -20)"
    failures=$((failures + 1))
}

says "old" "CUDA: $dir/old is of version 12.4, 12.5 or newer is needed; only the CPU kernels" -DLATHE_NVCC="$dir/old"
says "no compiler" "CUDA: .*no_gpu is of version , 12.5 or newer" -DLATHE_NVCC="$dir/no_gpu"
says "no GPU" "CUDA: 13.0 .*no GPU here: CUDA kernels are not compiled" -DLATHE_NVCC="$dir/new" -DLATHE_NVIDIA_SMI="$dir/no_gpu"
says "old GPU" "can not use the GPU here \(75\)" -DLATHE_NVCC="$dir/new" -DLATHE_NVIDIA_SMI="$dir/turing"
says "new GPU" "CUDA 12.6 .*can not use the GPU here \(120\)" -DLATHE_NVCC="$dir/middle" -DLATHE_NVIDIA_SMI="$dir/blackwell"
says "off" "CUDA: not wanted" -DLATHE_NVCC="$dir/new" -DLATHE_CUDA_ARCHS=OFF
says "unknown" 'LATHE_CUDA_ARCHS is "80;61": of these .* knows "80"' -DLATHE_NVCC="$dir/new" "-DLATHE_CUDA_ARCHS=80;61"
# these go on to ask the compiler for more than it can play
says "GPU" "CUDA: 13.0 .*; kernels for sm_120 " -DLATHE_NVCC="$dir/new" -DLATHE_NVIDIA_SMI="$dir/blackwell"
says "all" "CUDA: 12.6 .*; kernels for sm_80, sm_86, sm_89, sm_90a, compute_80, compute_90 " -DLATHE_NVCC="$dir/middle" \
    -DLATHE_CUDA_ARCHS=all

[ $failures -eq 0 ] && echo "ok"
exit $((failures > 0))
