#!/usr/bin/env bash
# Measures Lathe on this machine's GPU, and in the same run what there is to compare with: cuBLAS, PyTorch's attention,
# Hugging Face transformers and PEFT where they are installed. Needs the CUDA toolkit (12.5 or newer) and gcc. Takes at
# most 8 minutes; the table comes last, and is written to build/gpu/bench.json too.
#
#   scripts/gpu_bench.sh [copy] [matmul] [attention] [memory] [train] [decode]     (none: all of them)
#                        [--deps DIR] [--python PYTHON] [--build-only]
#
#   copy        what copying reaches: the ceiling of whatever is bound by memory
#   matmul      products of GPT-2 124M, 1.5B and of 7B in three layouts, against cuBLAS; lines for matmul_table.h
#   attention   forward and backward, causal, against PyTorch's flash and cuDNN attention
#   memory      norms, activations, cross-entropy, AdamW, as a share of copying
#   train       steps of GPT-2 124M and 1.5B, and LoRA steps of 7B, against Hugging Face and PEFT, with torch.compile
#   decode      generating text, against Hugging Face and against what reading the weights takes
#   --deps DIR  libraries of the whole program (train, decode), as unpacked Debian packages
#   --python    with PyTorch and the rest (python3)
#   --build-only  compile and link for sm_80, or for LATHE_GPU_CODE ("90a"), and run nothing
#
# Exit code: 0 measured, 1 something failed, 2 usage, 3 no GPU or no compiler: nothing was measured.
# LATHE_GPU_BUILD: another folder than build/gpu.  LATHE_GPU_MINUTES: another limit than 8.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tests/gpu/common.sh
source tests/gpu/common.sh
command_line="scripts/gpu_bench.sh $*"

parts=() deps='' python=python3 mode=gpu
while [ $# -gt 0 ]; do
    case $1 in
    copy | matmul | attention | memory | train | decode) parts+=("$1") ;;
    --deps) deps=$(cd "${2:?--deps needs a folder}" && pwd); shift ;;
    --python) python=${2:?--python needs a program}; shift ;;
    --build-only) mode=build ;;
    --help | -h) sed -n '2,22s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "gpu_bench: unknown part or option $1 (see --help)" >&2; exit 2 ;;
    esac
    shift
done
[ ${#parts[@]} -gt 0 ] || parts=(copy matmul attention memory train decode)
wants() { [[ " ${parts[*]} " == *" $1 "* ]]; }

nothing() {
    echo "gpu_bench: nothing was measured: $1" >&2
    exit $nothing_done
}

card="none" capability="" memory=0 driver=""
[ $mode = build ] || find_card || nothing "$why"
find_nvcc || nothing "no nvcc (the compiler of the CUDA toolkit), neither in PATH nor in /usr/local/cuda"
new_enough "$cuda_version" || nothing "$nvcc is of CUDA $cuda_version; 12.5 or newer is needed"
if [ $mode = gpu ]; then code=$(code_of "$capability"); else code=${LATHE_GPU_CODE:-80}; fi
use_nvcc
echo "card:    $card${capability:+, sm_$capability, $memory GB, driver for CUDA $driver}"
echo "toolkit: CUDA $cuda_version ($nvcc)"
echo "commit:  $(commit), $(date -u +%F)"

# --- Building -------------------------------------------------------------------------------------

model_why=''
if ! wants train && ! wants decode; then
    model_why="not wanted"
elif [ $mode = gpu ]; then
    start_model_build bench_train_step bench_gpu_decode
fi
trap stop_model_build EXIT

add_kernels
bench_objects=()
for source in tests/bench/bench_gpu*.cu; do
    bench_objects+=("$(object_of "$source")")
    add_object "${bench_objects[-1]}" "${gpu_compile[@]}" "$source"
done
echo "building $(wc -l <"$build/commands") objects, $jobs at a time"
compile
add_object "$objects/bench_gpu" "${link[@]}" "${bench_objects[@]}" "${kernel_objects[@]}" "${libraries[@]}"
compile
if [ ! -x "$objects/bench_gpu" ] || [ -n "$(find "$objects" -name '*.failed' -print -quit)" ]; then
    show_failures
    echo "gpu_bench: the kernels do not compile" >&2
    exit 1
fi
echo "built in $((SECONDS - began)) s"
[ $mode = gpu ] || exit 0

# --- Measuring ------------------------------------------------------------------------------------

results=$build/bench.tsv
notes=$build/bench.notes
mkdir -p "$build/logs"
: >"$results"
: >"$notes"
failed=0

say() { # what is to be told beneath the table
    echo "$*" | tee -a "$notes"
}

# measure NAME LIMIT COMMAND...: its lines to the results. An exit code of 77: not there, and why.
measure() {
    local name=$1 limit=$2 log=$build/logs/$1
    shift 2
    echo "... $name"
    apart=.errors run "$name" "$limit" "$@"
    grep -P '^[a-z]+\t' "$log" >>"$results" || true
    case $run_code in
    0) ;;
    77) say "$name: skipped: $(tail -n 1 "$log.errors")" ;;
    late) say "$name: skipped: no time left of $minutes minutes" ;;
    124) say "$name: cut off after $run_seconds s" ;;
    *)
        say "$name: FAILED: $(tail -n 1 "$log.errors")"
        return 1
        ;;
    esac
}

versions="no PyTorch"
if wants attention || wants train || wants decode; then
    if command -v "$python" >/dev/null; then
        run versions 60 "$python" tests/gpu/bench_peers.py versions
        versions=$(tail -n 1 "$build/logs/versions")
    else
        versions="no $python"
    fi
fi
echo "peers:   $versions"
has_torch=false
[[ $versions == torch* ]] && has_torch=true
peer() { # NAME LIMIT ARGUMENTS...
    local name=$1 limit=$2
    shift 2
    if $has_torch; then
        measure "$name" "$limit" "$python" tests/gpu/bench_peers.py "$@" || true
    else
        say "$name: skipped: $versions"
    fi
}

kernels=()
for part in copy matmul attention memory; do
    if wants $part; then kernels+=("$part"); fi
done
# copying always: decoding and the table need its figure
measure kernels 200 "$objects/bench_gpu" "${kernels[@]:-copy}" || failed=1
if wants attention; then peer "PyTorch attention" 90 attention; fi

model_tools=false
if [ -z "$model_why" ]; then
    if finish_model_build; then model_tools=true; else say "train, decode: skipped: $model_why"; fi
elif wants train || wants decode; then
    say "Lathe's train, decode: skipped: $model_why"
fi

# train_case PRESET METHOD LENGTH STEPS LIMIT ROWS...: the first number of rows that fits, then the same elsewhere.
train_case() {
    local preset=$1 method=$2 length=$3 steps=$4 limit=$5 rows name
    shift 5
    for rows in "$@"; do
        name="$preset $method, $rows rows"
        if measure "$name" 100 "$model_build/tests/bench_train_step" --cuda "$preset" "$rows" "$length" "$steps" "$method"; then
            peer "Hugging Face $name" "$limit" train "$preset" "$rows" "$length" "$steps" "$method"
            return
        fi
        grep -q 'memory' "$build/logs/$name.errors" || failed=1
    done
}
decode_case() { # PRESET ROWS
    measure "decoding $1, $2 rows" 60 "$model_build/tests/bench_gpu_decode" "$1" "$2" 256 || failed=1
    peer "Hugging Face decoding $1, $2 rows" 60 decode "$1" "$2" 256
}
if $model_tools && wants train; then
    train_case gpt2-124m full 1024 10 80 32 16 8 4
    train_case llama-2-7b lora 4096 3 110 1
    train_case gpt2-xl full 1024 4 110 8 4 2 1
fi
if $model_tools && wants decode; then
    decode_case gpt2-124m 1
    decode_case gpt2-124m 8
    decode_case gpt2-xl 1
    decode_case llama-2-7b 1
fi

# --- The table and the JSON -----------------------------------------------------------------------

report_bench "$results" "$notes" "$build/bench.json"
exit $failed
