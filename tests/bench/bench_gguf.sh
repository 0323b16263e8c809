#!/usr/bin/env bash
# Encoding and decoding GGUF's number types, and whole exports beside llama.cpp's quantizer.
#
#   tests/bench/bench_gguf.sh LATHE BENCH_QUANTS TOKENIZER [LLAMA_QUANTIZE]
#
# A model of GPT-2 124M's shape with fresh weights, from an f32 GGUF file to smaller ones. LLAMA_QUANTIZE is called as
# llama-quantize is: FROM TO TYPE THREADS. Everything from start to end counts, opening and fsync too; the best of three runs.
set -euo pipefail
lathe=$(realpath "${1:?the program}") bench=${2:?bench_quants} tokenizer=${3:?a tokenizer} peer=${4:-}
threads=${OMP_NUM_THREADS:-$(nproc)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# NAME COMMAND...: makes $work/out.gguf.
measure() {
    local name=$1
    shift
    TIMEFORMAT='%R %U %S'
    for _ in 1 2 3; do
        rm -f "$work/out.gguf"
        { time "$@" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }; } 2>&1
    done | sort -n | awk -v name="$name" 'NF != 3 { print; bad = 1; next }
        !best { best = sprintf("%-10s %5.2f s (%.2f s of CPU)", name, $1, $2 + $3) }
        END { print "    " best; exit bad }'
}

"$bench"
"$lathe" init --preset gpt2-124m --tokenizer "$tokenizer" --output "$work/model" --seed 1 >/dev/null
"$lathe" export --model "$work/model" --format gguf --dtype f32 --output "$work/f32.gguf" >/dev/null
for type in q8_0 q6_k q5_0 q4_k_m q4_0; do
    echo "  $type, $threads threads"
    measure lathe "$lathe" export --model "$work/f32.gguf" --format gguf --quantize "$type" --output "$work/out.gguf" \
        --threads "$threads"
    [ -z "$peer" ] || measure llama.cpp "$peer" "$work/f32.gguf" "$work/out.gguf" "${type^^}" "$threads"
done
