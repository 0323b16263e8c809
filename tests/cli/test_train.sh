#!/usr/bin/env bash
# lathe train as a user runs it: what it prints and leaves, signals, full disks, mistakes.
set -euo pipefail
source "$(dirname "$0")/train_common.sh"
make_data

train() { "$LATHE" train --model model --data data.h5 --threads 1 --eval-samples 1 "$@"; }

expect_failure() { # CODE PATTERN COMMAND...
    local code=$1 pattern=$2 status=0
    shift 2
    "$@" >out.log 2>err.log || status=$?
    [ "$status" = "$code" ] || fail "exit $status, not $code: $* -- $(cat err.log)"
    grep -q -- "$pattern" err.log || fail "'$pattern' is not in: $(cat err.log)"
}

echo "--- a dry run"
train --output dry --dry-run >dry.log
for word in parameters batch schedule weights gradients optimizer activations total available; do
    grep -q "$word" dry.log || fail "--dry-run does not say '$word'"
done
[ ! -e dry ] || fail "--dry-run wrote something"

echo "--- a plain run in a pipe"
train --output plain --max-steps 30 --learning-rate 1e-2 | cat >plain.log
for path in final/config.json final/tokenizer.json final/lathe.json best/model.safetensors checkpoint-30/manifest.json \
    log.jsonl report.html train_config.yaml; do
    [ -s "plain/$path" ] || fail "plain/$path is missing"
done
ls plain/events.out.tfevents.* >/dev/null || fail "no TensorBoard events"
grep -q $'\r' plain.log && fail "a bar was drawn in a pipe"
[ "$(grep -c '^step  *[0-9]' plain.log)" = 4 ] || fail "steps 1, 10, 20, 30 should be printed: $(cat plain.log)"
[ "$(grep '^step  *[0-9]' plain.log | awk '{ print length($0) }' | sort -u | wc -l)" = 1 ] || fail "the step lines are not aligned"
[ "$(ls -d plain/checkpoint-* | wc -l)" -le 3 ] || fail "--save-total-limit was not kept"
"$LATHE" inspect plain/checkpoint-30 | grep "every file is as it was written" >/dev/null || fail "inspect"

echo "--- a bar on a terminal"
if command -v script >/dev/null; then
    script -qec "'$LATHE' train --model model --data data.h5 --output bar --max-steps 30 --threads 1" /dev/null \
        </dev/null >bar.log 2>&1
    grep -q $'\r' bar.log && grep -q 'ETA' bar.log || fail "no bar on a terminal"
else
    echo "skipped: 'script' is not installed"
fi

echo "--- the same again: nothing to do; another run: refused; a file for --config"
train --output plain --max-steps 30 --learning-rate 1e-2 >again.log
grep -q "all 30 steps are done" again.log || fail "a finished run was not recognised"
expect_failure 2 "learning_rate was 0.01" train --output plain --max-steps 30 --learning-rate 2e-2
expect_failure 2 "is not empty" train --output plain --max-steps 30 --learning-rate 1e-2 --resume never
"$LATHE" train --config plain/train_config.yaml --output copy >copy.log
cmp plain/final/model.safetensors copy/final/model.safetensors || fail "train_config.yaml does not repeat the run"
cat >hf.yaml <<'YAML'
model_name_or_path: model
data: data.h5
output_dir: hf
per_device_train_batch_size: 4
num_train_epochs: 1
lr_scheduler_type: linear
max_grad_norm: 0.5
packing: off
YAML
"$LATHE" train --config hf.yaml --dry-run --max-grad-norm 2 >hf.log
grep -q "4 rows x 1" hf.log || fail "per_device_train_batch_size was not taken"
grep -q "gradient norm at most 2" hf.log || fail "a flag must win over the file"
echo "learning_rat: 1" >>hf.yaml
expect_failure 2 "learning.rate" "$LATHE" train --config hf.yaml --dry-run

echo "--- a model of the Hugging Face cache"
mkdir -p cache/hub/models--someone--tiny/refs cache/hub/models--someone--tiny/snapshots/abc
printf abc >cache/hub/models--someone--tiny/refs/main
cp model/* cache/hub/models--someone--tiny/snapshots/abc/
HF_HOME=$work/cache "$LATHE" train --model someone/tiny --data data.h5 --output o --dry-run >cache.log ||
    fail "org/name was not found in the cache"

echo "--- optimizers and number types"
train --output short --max-steps 5 --optimizer adamw-8bit --learning-rate 1e-3 >short.log
grep -q "optimizer    adamw-8bit" short.log || fail "the optimizer is not named: $(cat short.log)"
grep -q "optimizer .*(adamw-8bit)" short.log || fail "no 8-bit state in the table: $(cat short.log)"
[ "$(stat -c %s short/checkpoint-5/optimizer.safetensors)" -lt $(($(stat -c %s plain/checkpoint-30/optimizer.safetensors) / 2)) ] ||
    fail "8-bit state is not small"
expect_failure 2 'optimizer was "adamw-8bit", is "adamw"' train --output short --max-steps 5 --learning-rate 1e-3
expect_failure 2 "needs a GPU" train --output o --device cpu --dtype bfloat16
expect_failure 2 "this run is on the CPU" train --output o --device cpu --offload-optimizer
expect_failure 2 "goes with --dtype bfloat16" train --output o --device cpu --gradient-dtype bfloat16
expect_failure 2 "there are auto, cpu, cuda" train --output o --device gpu
expect_failure 2 "there are auto, cpu, cuda" "$LATHE" generate --model model --prompt x --device tpu
expect_failure 2 "there are auto, cpu, cuda" "$LATHE" score --model model --text x --device tpu
expect_failure 2 "--dtype bfloat16 needs a GPU" "$LATHE" score --model model --text x --device cpu --dtype bfloat16
expect_failure 2 "--data is required" "$LATHE" train --model model --output o
expect_failure 2 "--output is required" "$LATHE" train --model model --data data.h5

echo "--- mistakes"
expect_failure 2 "did you mean" train --output o --learning-ratee 1
expect_failure 2 "out of range" train --output o --warmup-ratio 2
expect_failure 2 "required" "$LATHE" train --model model
expect_failure 2 "not a multiple" train --output o --micro-batch-size 3 --global-batch-size 8
mkdir huge
sed 's/"n_embd": 32/"n_embd": 65536/; s/"n_layer": 2/"n_layer": 96/; s/"n_inner": 128/"n_inner": 262144/' model/config.json >huge/config.json
expect_failure 1 "not enough memory" "$LATHE" train --model huge --data data.h5 --output o
head -c 3000 data.h5 >cut.h5
expect_failure 1 "cut.h5" "$LATHE" train --model model --data cut.h5 --output o
[ ! -e o ] || fail "a refused run left something behind"

echo "--- signals: a checkpoint, and on from there"
long=(--output signal --max-steps 2000 --save-steps 100000 --eval-steps 100000 --learning-rate 1e-3 --logging-steps 1)
for signal in TERM USR1 INT; do
    : >signal.log # what an earlier run wrote must not be taken for this one's
    "$LATHE" train --model model --data data.h5 --threads 1 --eval-samples 0 "${long[@]}" >signal.log 2>signal.err &
    pid=$!
    for _ in $(seq 200); do
        grep -q '^step  *[0-9]' signal.log && break
        sleep 0.05
    done
    kill -$signal "$pid"
    status=0
    wait "$pid" || status=$?
    [ "$status" = 130 ] || fail "SIG$signal ended the run with $status: $(tail -3 signal.log signal.err)"
    grep -q "the same command goes on from here" signal.log || fail "SIG$signal: $(tail -3 signal.log)"
    ls -d signal/checkpoint-* >/dev/null || fail "SIG$signal left no checkpoint"
    [ ! -e signal/final ] || fail "SIG$signal left a final model"
done
grep -q "^resumed" signal.log || fail "the run did not go on"

echo "--- two runs in one directory"
: >signal.log
"$LATHE" train --model model --data data.h5 --threads 1 --eval-samples 0 "${long[@]}" >signal.log 2>&1 &
pid=$!
for _ in $(seq 200); do
    grep -q '^step  *[0-9]' signal.log && break
    sleep 0.05
done
expect_failure 2 "another lathe train" "$LATHE" train --model model --data data.h5 --threads 1 --eval-samples 0 "${long[@]}"
kill -9 "$pid"
wait "$pid" 2>/dev/null || true

echo "--- files that can not be written: training goes on, and the end says so"
status=0
(
    ulimit -f 300 # KiB: less than the optimizer's file, more than the model's
    train --output limited --max-steps 6 --save-steps 2 --learning-rate 1e-2
) >limited.log 2>&1 || status=$?
[ "$status" = 1 ] || fail "exit $status after a failed save: $(cat limited.log)"
[ "$(grep -c 'was not saved' limited.log)" = 3 ] || fail "three failed checkpoints should be told of: $(cat limited.log)"
grep -q "last save failed" limited.log || fail "the last failure is not named"
[ -s limited/final/model.safetensors ] || fail "the final model fits and should be there"
[ -z "$(ls -d limited/checkpoint-* 2>/dev/null)" ] || fail "a half-written checkpoint is there"

echo "--- a full disk: training goes on, the old checkpoint stays, saving resumes when there is room"
mkdir disk
if mount -t tmpfs -o size=6m tmpfs disk 2>/dev/null; then
    trap 'umount "$work/disk"; cleanup' EXIT
    train --output disk/out --max-steps 400 --save-steps 20 --save-total-limit 1 --eval-steps 1000 --logging-steps 20 \
        --learning-rate 1e-3 >disk.log 2>&1 &
    pid=$!
    wait_for disk.log "^saved" 1
    head -c 8000000 /dev/zero >disk/filler 2>/dev/null || true
    wait_for disk.log "was not saved" 1
    [ "$(ls -d disk/out/checkpoint-* | wc -l)" -ge 1 ] || fail "the old checkpoint did not stay"
    "$LATHE" inspect "$(ls -d disk/out/checkpoint-* | head -1)" >/dev/null || fail "the old checkpoint is damaged"
    rm disk/filler
    status=0
    wait "$pid" || status=$?
    [ "$status" = 0 ] || fail "exit $status although the last save worked: $(tail -5 disk.log)"
    [ -s disk/out/checkpoint-400/manifest.json ] && [ -s disk/out/final/model.safetensors ] || fail "no last checkpoint"
else
    echo "skipped: a tmpfs can not be mounted here"
fi
echo "all well"
