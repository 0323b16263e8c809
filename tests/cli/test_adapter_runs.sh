#!/usr/bin/env bash
# Adapter runs that are interrupted, killed or find the disk full: they save what they have, go on with the same command,
# and end with the very bits of a run that was left alone. 12 kills, or 200 with LATHE_LONG_TESTS=1.
set -euo pipefail
source "$(dirname "$0")/train_common.sh"

kills_wanted=12
[ -n "${LATHE_LONG_TESTS:-}" ] && kills_wanted=200

make_data
"$LATHE" prepare --input data.jsonl --template alpaca --tokenizer "$LATHE_SOURCE_DIR/tests/golden/dolly" \
    --output alpaca.h5 --validation 0.1 >prepare.log || fail "prepare"

train() { "$LATHE" train --model model --data alpaca.h5 --threads 1 --learning-rate 1e-2 "$@"; }

echo "--- Ctrl-C: a checkpoint, and on from there"
for method in lora prefix; do
    for attempt in first second; do
        : >signal.log # what an earlier run wrote must not be taken for this one's
        "$LATHE" train --model model --data alpaca.h5 --threads 1 --method $method --output "signal-$method" --max-steps 5000 \
            --save-steps 100000 --eval-steps 100000 --logging-steps 1 --eval-samples 0 >signal.log 2>signal.err &
        pid=$!
        for _ in $(seq 400); do
            grep -q '^step  *[0-9]' signal.log && break
            sleep 0.05
        done
        kill -INT "$pid"
        status=0
        wait "$pid" || status=$?
        [ "$status" = 130 ] || fail "Ctrl-C ended the $attempt $method run with $status: $(tail -3 signal.log signal.err)"
        grep -q "the same command goes on from here" signal.log || fail "$method: $(tail -3 signal.log)"
        checkpoint=$(ls -d "signal-$method"/checkpoint-* | sort -V | tail -1)
        [ -s "$checkpoint/adapter_model.safetensors" ] || fail "$method: no checkpoint"
        [ ! -e "signal-$method/final" ] || fail "Ctrl-C left a final adapter"
    done
    grep -q "^resumed" signal.log || fail "the $method run did not go on"
    # what was saved is an adapter like any other
    "$LATHE" generate --model model --adapter "$checkpoint" --prompt hi --max-new-tokens 4 --quiet >said.txt || fail "$checkpoint"
done

echo "--- train_config.yaml repeats the run, --resume DIR goes on from there"
train --output first --method prompt --max-steps 6 --save-steps 2 --save-total-limit 0 --prompt-tuning-init text \
    --prompt-tuning-init-text $'What: #1 \'is\' "next"?\n- n\xc3\xbcll, null' >first.log
"$LATHE" train --config first/train_config.yaml --output again >again.log || fail "--config: $(tail -1 again.log)"
cmp {first,again}/final/adapter_model.safetensors || fail "train_config.yaml does not repeat the run"
cmp {first,again}/final/adapter_config.json || fail "train_config.yaml does not repeat the run"
"$LATHE" train --config first/train_config.yaml --output other --resume first/checkpoint-2 >other.log
grep -q "^resumed *from first/checkpoint-2, step 2" other.log || fail "--resume DIR: $(head -30 other.log)"
cmp {first,other}/final/adapter_model.safetensors || fail "--resume DIR ends with other bits"

echo "--- kills: the bits of a run that was left alone"
runs=(
    "--method lora --lora-r 4 --lora-dropout 0.1 --use-dora"
    "--method prefix --prefix-projection --num-virtual-tokens 6"
    "--method p-tuning --num-virtual-tokens 6"
)
begin_run() { # OUTPUT METHOD...
    exec "$LATHE" train --model model --data alpaca.h5 --output "$1" --max-steps 40 --learning-rate 1e-2 --packing off \
        --micro-batch-size 2 --gradient-accumulation-steps 2 --save-steps 3 --eval-steps 10 --logging-steps 1 \
        --resid-pdrop 0.1 --eval-samples 1 --threads 1 "${@:2}"
}
compare() {
    local file
    for file in final/adapter_model.safetensors best/adapter_model.safetensors checkpoint-40/optimizer.safetensors \
        checkpoint-40/adapter_model.safetensors; do
        cmp "whole/$file" "killed/$file" || fail "$file differs after $kills kills ($method)"
    done
    [ ! -e whole/checkpoint-40/prompt_encoder.safetensors ] ||
        cmp {whole,killed}/checkpoint-40/prompt_encoder.safetensors || fail "the network differs after $kills kills ($method)"
    [ "$(grep -c '"event":"step"' killed/log.jsonl)" = 40 ] || fail "log.jsonl does not have each step once"
    [ -z "$(find killed -name '*.tmp-*')" ] || fail "temporary files are left: $(find killed -name '*.tmp-*')"
}
for method in "${runs[@]}"; do
    rm -rf whole killed
    begin=$(date +%s%N)
    # shellcheck disable=SC2086
    (begin_run whole $method) >whole.log || fail "the run that is left alone: $(tail -3 whole.log)"
    duration=$((($(date +%s%N) - begin) / 1000000)) # ms
    kills=0 finished=0
    while [ "$kills" -lt $((kills_wanted / 3)) ] && [ "$finished" -lt "$kills_wanted" ]; do
        # shellcheck disable=SC2086
        (begin_run killed $method) >killed.log 2>&1 &
        pid=$!
        sleep "$(awk -v r=$RANDOM -v ms="$duration" 'BEGIN { printf "%.3f", r / 32768 * ms / 1000 }')"
        kill -9 "$pid" 2>/dev/null || true
        status=0
        wait "$pid" 2>/dev/null || status=$?
        if [ "$status" = 137 ]; then
            kills=$((kills + 1))
            continue
        fi
        [ "$status" = 0 ] || fail "a run ended with $status: $(tail -3 killed.log)"
        compare
        finished=$((finished + 1))
        rm -rf killed
    done
    # shellcheck disable=SC2086
    (begin_run killed $method) >killed.log 2>&1 || fail "the last run: $(tail -3 killed.log)"
    compare
    echo "$kills kills, $((finished + 1)) runs finished: $method"
done

echo "--- files that can not be written: training goes on, and the end says so"
status=0
(
    ulimit -f 50 # KiB: less than the optimizer's file, more than the adapter's
    train --output limited --method lora --max-steps 6 --save-steps 2 --eval-steps 100
) >limited.log 2>&1 || status=$?
[ "$status" = 1 ] || fail "exit $status after a failed save: $(tail -3 limited.log)"
[ "$(grep -c 'was not saved' limited.log)" = 3 ] || fail "three failed checkpoints should be told of: $(cat limited.log)"
[ -s limited/final/adapter_model.safetensors ] || fail "the final adapter fits and should be there"
[ -z "$(ls -d limited/checkpoint-* 2>/dev/null)" ] || fail "a half-written checkpoint is there"

echo "--- a full disk: the old checkpoint stays, saving goes on when there is room"
mkdir disk
if mount -t tmpfs -o size=6m tmpfs disk 2>/dev/null; then
    trap 'umount "$work/disk"; cleanup' EXIT
    # room for the adapter is enough: the model itself would not fit
    "$LATHE" init --family gpt2 --layers 2 --hidden-size 256 --heads 4 --max-position 160 \
        --tokenizer "$LATHE_SOURCE_DIR/tests/golden/dolly" --output broad >init.log || fail "init"
    [ "$(stat -c %s broad/model.safetensors)" -gt 6291456 ] || fail "the model is too small for this test"
    train --model broad --output disk/broad --method lora --lora-target attention --max-steps 1 --eval-samples 0 >broad.log ||
        fail "an adapter that fits was not saved: $(tail -3 broad.log)"
    [ -s disk/broad/checkpoint-1/manifest.json ] || fail "no checkpoint beside a large model: $(tail -5 broad.log)"
    rm -r disk/broad
    train --output disk/out --method prefix --prefix-projection --max-steps 400 --save-steps 20 --save-total-limit 1 \
        --eval-steps 1000 --logging-steps 20 >disk.log 2>&1 &
    pid=$!
    wait_for disk.log "^saved" 1
    head -c 8000000 /dev/zero >disk/filler 2>/dev/null || true
    wait_for disk.log "was not saved" 1
    kept=$(ls -d disk/out/checkpoint-* | head -1)
    "$LATHE" inspect "$kept" >/dev/null || fail "the old checkpoint is damaged"
    rm disk/filler
    status=0
    wait "$pid" || status=$?
    [ "$status" = 0 ] || fail "exit $status although the last save worked: $(tail -5 disk.log)"
    [ -s disk/out/checkpoint-400/prompt_encoder.safetensors ] && [ -s disk/out/final/adapter_model.safetensors ] ||
        fail "no last checkpoint"
else
    echo "skipped: a tmpfs can not be mounted here"
fi
echo "all well"
