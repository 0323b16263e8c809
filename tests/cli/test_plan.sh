#!/usr/bin/env bash
# The memory that real models take, planned without them and without a GPU: lathe train --dry-run with a known shape.
# These are the promises for one GPU of 141 GB, for one of 40, and for many of 80.
set -euo pipefail
source "$(dirname "$0")/train_common.sh"

# A machine with a GPU plans for that one, and refuses what does not fit it; the numbers are the same.
plan() { # OPTIONS...
    "$LATHE" train --dry-run --device cuda --dtype bfloat16 --micro-batch-size 1 "$@" >plan.txt 2>plan.err ||
        grep -q "not enough memory" plan.err || fail "$*: $(cat plan.err)"
    grep -q "^memory" plan.txt || fail "$*: no table: $(cat plan.txt)"
}

# between LABEL LOW HIGH: the table's figure in GB
between() {
    local value
    value=$(awk -v label="$1" 'index($0, "             " label " ") == 1 { sub(label, ""); print $1, $2; exit }' plan.txt)
    [ "${value#* }" = GB ] || fail "$1: not in GB: $(cat plan.txt)"
    awk -v v="${value% *}" -v low="$2" -v high="$3" 'BEGIN { exit !(v >= low && v <= high) }' ||
        fail "$1 is $value, not between $2 and $3: $(cat plan.txt)"
}

echo "--- full tuning of 7B fits 141 GB"
plan --model llama-2-7b --max-length 2048 --recompute block
between weights 13.4 13.6
between gradients 26.9 27.1
between "master weights" 26.9 27.1
between optimizer 53.8 54.1
between activations 0.6 3
between total 120 126 # at most 141

echo "--- and of today's 7B and 8B models, with their larger vocabularies"
plan --model mistral-7b --max-length 2048 --recompute block
between total 128 136
plan --model qwen2.5-7b --max-length 2048 --recompute block
between total 135 141
plan --model llama-3-8b --max-length 2048 --recompute block --optimizer adamw-bf16
between total 110 120

echo "--- with the optimizer in host memory it fits 48 GB"
plan --model llama-2-7b --max-length 2048 --recompute block
between "if offloaded" 40 44
grep -q "and 80.* GB of host memory (--offload-optimizer)" plan.txt || fail "no host memory: $(cat plan.txt)"
plan --model llama-2-7b --max-length 2048 --recompute block --offload-optimizer
between total 40 44
between "host memory" 80 82
grep -q "master weights .*in host memory" plan.txt || fail "where are the master weights? $(cat plan.txt)"

echo "--- full tuning of 12B fits 141 GB with 8-bit state and bf16 gradients"
plan --model dolly-v2-12b --max-length 1024 --recompute block --optimizer adamw-8bit --gradient-dtype bfloat16
between weights 23.6 23.8
between gradients 23.6 23.8
between "master weights" 47.3 47.5
between optimizer 23.8 24.3
between total 118 122
plan --model dolly-v2-12b --max-length 1024 --recompute block # and does not without
between total 210 220

echo "--- LoRA of 12B fits 40 GB"
plan --model dolly-v2-12b --max-length 1024 --recompute block --method lora --lora-r 16
between "frozen base" 23.6 23.8
between total 24.5 28
plan --model dolly-v2-12b --max-length 1024 --recompute selective --method lora --lora-r 16 --micro-batch-size 2
between total 28 40

echo "--- recompute levels are shown side by side, and in order"
plan --model gpt2-1.5b --max-length 1024 --recompute selective --micro-batch-size 8
read -r none selective block < <(sed -nE 's/.*activations +([0-9.]+) GB +.recompute selective; none ([0-9.]+), block ([0-9.]+).*/\2 \1 \3/p' plan.txt)
awk -v n="$none" -v s="$selective" -v b="$block" 'BEGIN { exit !(n > s && s > b && b > 0) }' ||
    fail "levels: none $none, selective $selective, block $block"
plan --model gpt2-1.5b --max-length 1024 --recompute none --micro-batch-size 8
between activations "$none" "$none"

echo "--- float32 on a GPU needs no master weights"
"$LATHE" train --dry-run --device cuda --dtype float32 --model pythia-1b --max-length 512 >plan.txt 2>plan.err || true
grep -q "master" plan.txt && fail "master weights in float32: $(cat plan.txt)"
between weights 4 4.2

echo "--- without a GPU it says so, and on the CPU it plans for the CPU"
if ! "$LATHE" score --model nowhere --text x --device cuda 2>/dev/null && grep -q "planned for only" plan.txt; then
    grep -q "a GPU, which is not here" plan.txt || fail "no word about the missing GPU: $(cat plan.txt)"
fi
"$LATHE" train --dry-run --device cpu --model gpt2-124m --max-length 64 --micro-batch-size 1 >plan.txt
grep -q "of this machine" plan.txt || fail "not of this machine: $(cat plan.txt)"
grep -q "scratch" plan.txt && fail "the CPU has no such scratch: $(cat plan.txt)"
[ -z "$(ls | grep -v '^plan')" ] || fail "a plan wrote something"

echo "--- eight GPUs that share a model's weights, gradients and optimizer, and clusters of them"
"$LATHE" train --dry-run --model llama-2-7b --max-length 4096 --micro-batch-size 1 --gradient-accumulation-steps 4 \
    --recompute block --dtype bfloat16 --gpus 8 --shard parameters >out.txt 2>plan.err ||
    grep "not enough memory" plan.err >/dev/null || fail "eight GPUs: $(cat plan.err)"
# a machine with a GPU says what that one has
sed -nE '/^(batch|processes|memory|clusters|  )/p' out.txt | sed -E '/^ +(llama,|planned for only:)/d; s/^(memory +of).*, for/\1 GPUs, for/; s/ of [0-9.]+ GB available//' >plan.txt
cat >expected.txt <<'END'
batch        1 rows x 4 accumulated x 8 processes = 32 rows a step, at most 4096 tokens each, packing on
processes    8, planned for only; --shard parameters: weights, gradients and the optimizer's state are divided
memory       of GPUs, for each of 8 processes
             weights                2.76 GB  (bfloat16, a part of 8 and rooms)
             gradients              5.51 GB  (a part of 8 and rooms)
             master weights         3.37 GB  (a part of 8)
             optimizer              6.74 GB  (adamw, a part of 8)
             activations            2.07 GB  (recompute block; none 17.76, selective 12.88)
             exchange               0.10 GB
             scratch                0.07 GB
             total                 20.62 GB
             if offloaded          10.51 GB  and 10.11 GB of host memory (--offload-optimizer)
END
sed '/^clusters/,$d' plan.txt | cmp -s - expected.txt || fail "the plan has changed: $(diff expected.txt plan.txt)"

echo "--- 13B and 70B, as docs/scaling.md has them"
total() { # MODEL GPUS SHARD LOW HIGH [OPTIONS...]
    plan --model "$1" --max-length 4096 --recompute block --gpus "$2" --shard "$3" "${@:6}"
    between total "$4" "$5"
}
total llama-2-13b 8 optimizer 100.5 100.7
total llama-2-13b 8 gradients 58.3 58.5
total llama-2-13b 8 parameters 37.1 37.4
total llama-2-70b 8 parameters 174 175
total llama-2-70b 64 parameters 38.5 38.7
total llama-2-70b 8 parameters 30 31 --method lora

echo "--- estimates: what is asked for, or all clusters when there are several GPUs"
estimate() { # OPTIONS...
    "$LATHE" train --dry-run --device cuda --dtype bfloat16 --model llama-2-7b --max-length 512 --micro-batch-size 1 "$@" \
        >plan.txt 2>plan.err || grep "not enough memory" plan.err >/dev/null || fail "$*: $(cat plan.err)"
    sed -n '/^clusters/,$p' plan.txt >clusters.txt
}
estimate
[ ! -s clusters.txt ] || fail "one GPU is no cluster: $(cat clusters.txt)"
estimate --gpus 4
for name in 8xH100 64xH100 512xH100; do
    grep "^ *$name  *[0-9]" clusters.txt >/dev/null || fail "no $name: $(cat clusters.txt)"
done
estimate --cluster 64xH100,8xH100 --shard parameters
[ "$(awk 'NR > 2 && $2 ~ /^[0-9]/ { printf "%s ", $1 }' clusters.txt)" = "64xH100 8xH100 " ] || fail "which: $(cat clusters.txt)"
grep "8xH100: --shard" clusters.txt >/dev/null || fail "no advice for a step that waits: $(cat clusters.txt)"

echo "--- what does not fit is refused, with what would help"
status=0
"$LATHE" train --dry-run --device cpu --model dolly-v2-12b --max-length 2048 --micro-batch-size 64 >plan.txt 2>plan.err || status=$?
if [ "$status" != 0 ]; then # a machine of a terabyte may well have room
    for word in "not enough memory" "--recompute block" "--optimizer adamw-8bit" "--method lora"; do
        grep -q -- "$word" plan.err || fail "'$word' is not in: $(cat plan.err)"
    done
    grep -q -- "--offload-optimizer" plan.err && fail "nothing can be offloaded from the CPU: $(cat plan.err)"
fi

echo "--- mistakes"
refuse() { # PATTERN OPTIONS...
    local pattern=$1 status=0
    shift
    "$LATHE" train "$@" >out.txt 2>err.txt || status=$?
    [ "$status" = 2 ] || [ "$status" = 1 ] || fail "exit $status: $* -- $(cat err.txt)"
    grep -q -- "$pattern" err.txt || fail "'$pattern' is not in: $(cat err.txt)"
}
refuse "max-length" --dry-run --model llama-2-7b
refuse "4096 positions" --dry-run --model llama-2-7b --max-length 5000
refuse "llama-2-8b" --dry-run --model llama-2-8b --max-length 64
refuse "gpt2-xl" --model gpt2-xl --max-length 64 --data d.h5 --output o # only a plan can do without the model
refuse "there are 8xH100, 64xH100, 512xH100" --dry-run --model llama-2-7b --max-length 64 --cluster 8xH10
refuse "a plan for the CPU" --dry-run --model gpt2-124m --max-length 64 --device cpu --cluster 8xH100
refuse "--data" --dry-run --model llama-2-7b --max-length 64 --method prompt --prompt-tuning-init text \
    --prompt-tuning-init-text x
echo "all well"
