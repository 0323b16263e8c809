#!/usr/bin/env bash
# lathe train on the GPU: the loss curve of the CPU in float32, and near it in bfloat16; by Lathe's own matrix products
# as by cuBLAS; a run that is killed and resumed ends with the very bits of one that is left alone.
set -euo pipefail
# shellcheck source=tests/gpu/gpu_common.sh
source "$(dirname "$0")/gpu_common.sh"

train() { # OUTPUT ARGUMENTS...
    local output=$1
    shift
    "$LATHE" train --model model --data data.h5 --output "$output" --max-steps 30 --learning-rate 3e-3 --packing off \
        --micro-batch-size 4 --logging-steps 1 --eval-samples 0 --resume never "$@" >"$output.log" 2>&1 ||
        fail "$output: $(tail -n 3 "$output.log")"
}

echo "--- float32: GPU and CPU"
train cpu --device cpu
train gpu --device cuda --dtype float32 --matmul native
same_curve "loss in float32" cpu gpu loss 1e-4
train again --device cuda --dtype float32 --matmul native
cmp gpu/final/model.safetensors again/final/model.safetensors || fail "two runs gave different bits"

echo "--- bfloat16: numbers of 8 bits, so losses within a few times 2^-8, and the two go apart a little on their way"
train half --device cuda --dtype bfloat16 --matmul native
same_curve "loss in bfloat16" cpu half loss 0.01

echo "--- cuBLAS"
if "$LATHE" devices | grep '^ *cublas .*libcublas' >/dev/null; then
    train cublas --device cuda --dtype float32 --matmul cublas
    same_curve "loss with cuBLAS" gpu cublas loss 1e-4
else
    echo "skipped: cuBLAS is not found"
fi

echo "--- LoRA"
train lora_cpu --device cpu --method lora --lora-r 4
train lora_gpu --device cuda --dtype float32 --method lora --lora-r 4
same_curve "loss of LoRA" lora_cpu lora_gpu loss 1e-4

echo "--- optimizer state in 8 bits with gradients in bfloat16, in bfloat16, and in the host's memory"
train eight --device cuda --optimizer adamw-8bit --gradient-dtype bfloat16
same_curve "loss with 8-bit state" half eight loss 0.01
train sixteen --device cuda --optimizer adamw-bf16
same_curve "loss with bfloat16 state" half sixteen loss 0.01
train offloaded --device cuda --offload-optimizer
same_curve "loss with an offloaded optimizer" half offloaded loss 0.002

echo "--- killed and resumed, with dropout"
steps=120
[ -z "${LATHE_EMULATED:-}" ] || steps=40
resumable() { # OUTPUT ARGUMENTS...
    local output=$1
    shift
    exec "$LATHE" train --model model --data data.h5 --output "$output" --device cuda --max-steps $steps \
        --learning-rate 3e-3 --packing off --micro-batch-size 2 --gradient-accumulation-steps 2 --save-steps 5 \
        --logging-steps 1 --resid-pdrop 0.1 --attn-pdrop 0.1 --eval-samples 0 "$@" >"$output.log" 2>&1
}
newest() { { find "$1" -maxdepth 1 -name "checkpoint-*" 2>/dev/null || true; } | sort -V | tail -n 1; }

killed_and_resumed() { # NAME ARGUMENTS...
    local name=$1 kills=0 before pid file
    shift
    (resumable "whole-$name" "$@") || fail "the run that is left alone: $(tail -n 3 "whole-$name.log")"
    for _ in 1 2 3; do
        before=$(newest "killed-$name")
        (resumable "killed-$name" "$@") &
        pid=$!
        # until it has saved something new
        while kill -0 "$pid" 2>/dev/null && [ "$(newest "killed-$name")" = "$before" ]; do sleep 0.005; done
        if kill -9 "$pid" 2>/dev/null; then kills=$((kills + 1)); fi
        wait "$pid" 2>/dev/null || true
    done
    [ $kills -gt 0 ] || fail "the run was over before it could be killed: $(tail -n 3 "killed-$name.log")"
    (resumable "killed-$name" "$@") || fail "the last run: $(tail -n 3 "killed-$name.log")"
    for file in final/model.safetensors checkpoint-$steps/optimizer.safetensors; do
        cmp "whole-$name/$file" "killed-$name/$file" || fail "$name: $file differs after $kills kills"
    done
    echo "$name: the same bits after $kills kills"
}
killed_and_resumed plain
killed_and_resumed eight --optimizer adamw-8bit --gradient-dtype bfloat16
killed_and_resumed offloaded --offload-optimizer --optimizer adamw-bf16

if [ -n "${LATHE_EMULATED:-}" ]; then
    echo "--- the GPU fails in mid-run: the last checkpoint stays, and the same command goes on from it"
    code=0
    (EMULATOR_FAIL_LAUNCH=9000 resumable killed-failing) || code=$?
    [ $code = 1 ] || fail "a failing GPU: exit code $code: $(tail -n 3 killed-failing.log)"
    grep -q "cudaErrorIllegalAddress.*checkpoint-" killed-failing.log || fail "$(tail -n 3 killed-failing.log)"
    grep "error:" killed-failing.log
    (resumable killed-failing) || fail "after the failure: $(tail -n 3 killed-failing.log)"
    cmp whole-plain/final/model.safetensors killed-failing/final/model.safetensors || fail "other bits after the failure"
fi
echo "all well"
