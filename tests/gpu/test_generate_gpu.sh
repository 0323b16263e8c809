#!/usr/bin/env bash
# lathe generate on the GPU: in float32, greedily, the CPU's very text; drawn with a seed, the same twice; in bfloat16,
# an answer; several prompts at a time as one by one. lathe chat and lathe eval: the CPU's answers and losses, also of a
# quantised GGUF file.
set -euo pipefail
# shellcheck source=tests/gpu/gpu_common.sh
source "$(dirname "$0")/gpu_common.sh"

# a model that has learnt something: a fresh one is nearly undecided, and rounding would choose
"$LATHE" train --model model --data data.h5 --output trained --max-steps 120 --learning-rate 1e-2 --eval-samples 0 \
    --device cpu >train.log 2>&1 || fail "$(tail -n 3 train.log)"
for word in amber birch cedar dune ember; do
    printf '{"prompt": "What is next to %s, please?"}\n' $word
done >prompts.jsonl
answer() { # ARGUMENTS...
    "$LATHE" generate --model trained/final --input prompts.jsonl --max-new-tokens 40 --json --quiet "$@"
}

answer --device cpu >cpu.jsonl
answer --device cuda --dtype float32 --matmul native >gpu.jsonl
cmp cpu.jsonl gpu.jsonl || fail "GPU and CPU answer differently: $(diff cpu.jsonl gpu.jsonl | head -n 4)"
if "$LATHE" devices | grep '^ *cublas .*libcublas' >/dev/null; then
    answer --device cuda --dtype float32 --matmul cublas >cublas.jsonl
    cmp cpu.jsonl cublas.jsonl || fail "cuBLAS answers differently"
fi
answer --device cuda --dtype float32 --temperature 0.8 --top-p 0.9 --seed 5 >drawn.jsonl
answer --device cuda --dtype float32 --temperature 0.8 --top-p 0.9 --seed 5 >again.jsonl
cmp drawn.jsonl again.jsonl || fail "the same seed drew something else"
answer --device cuda >half.jsonl
[ "$(wc -l <half.jsonl)" = 5 ] || fail "bfloat16: $(cat half.jsonl)"
answer --device cuda >half_again.jsonl
cmp half.jsonl half_again.jsonl || fail "bfloat16: two runs differ"

# float32 on both: the machine differs, the numbers do not
printf 'What is next to amber, please?\nAnd to dune?\n/reset\nWhat is next to cedar, please?\n' >said.txt
chat() { "$LATHE" chat --model trained/final --history on --max-new-tokens 12 "$@" <said.txt 2>chat.log || fail "chat: $(cat chat.log)"; }
chat --device cpu >cpu.chat
chat --device cuda --dtype float32 >gpu.chat
[ -s cpu.chat ] || fail "nothing was said"
cmp cpu.chat gpu.chat || fail "GPU and CPU talk differently"

"$LATHE" export --model trained/final --format gguf --quantize q8_0 --output trained.gguf >export.log || fail "$(cat export.log)"
evaluate() { # MODEL DEVICE...: the losses and accuracies
    "$LATHE" eval --model "$1" --data data.h5 --json --max-new-tokens 8 "${@:2}" 2>eval.log | grep -E '"[a-zA-Z0-9_]+,none": ' || fail "eval: $(cat eval.log)"
}
for model in trained/final trained.gguf; do
    evaluate $model --device cpu >cpu.eval
    evaluate $model --device cuda --dtype float32 >gpu.eval
    paste cpu.eval gpu.eval | tr -d ',' | awk '{ d = $2 - $4; if (d < 0) d = -d; if ($1 != $3 || d > 1e-4) bad = 1 } END { exit bad || NR < 10 }' ||
        fail "$model: GPU and CPU score differently: $(diff cpu.eval gpu.eval | head -n 4)"
done
echo "all well"
