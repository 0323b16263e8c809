#!/usr/bin/env bash
# A run that is killed (SIGKILL) at random moments and started again with the same command, over and over, must end with
# the very bits of a run that was left alone. 50 kills, or 1000 with LATHE_LONG_TESTS=1.
set -euo pipefail
source "$(dirname "$0")/train_common.sh"

kills_wanted=50
[ -n "${LATHE_LONG_TESTS:-}" ] && kills_wanted=1000

make_data
run() {
    exec "$LATHE" train --model model --data data.h5 --output "$1" --max-steps 60 --learning-rate 1e-2 --packing off \
        --micro-batch-size 2 --gradient-accumulation-steps 2 --save-steps 3 --eval-steps 10 --logging-steps 1 \
        --resid-pdrop 0.1 --attn-pdrop 0.1 --eval-samples 1 --threads 1
}

begin=$(date +%s%N)
(run whole) >whole.log || fail "the run that is left alone: $(tail -3 whole.log)"
duration=$((($(date +%s%N) - begin) / 1000000)) # ms

compare() {
    local file
    for file in final/model.safetensors best/model.safetensors checkpoint-60/optimizer.safetensors; do
        cmp "whole/$file" "killed/$file" || fail "$file differs after $kills kills"
    done
    # each step is logged once, whatever was done twice
    [ "$(grep -c '"event":"step"' killed/log.jsonl)" = 60 ] || fail "log.jsonl does not have each step once"
    [ -z "$(find killed -name '*.tmp-*')" ] || fail "temporary files are left: $(find killed -name '*.tmp-*')"
}

kills=0 finished=0 attempts=0
while [ "$kills" -lt "$kills_wanted" ]; do
    attempts=$((attempts + 1))
    [ "$attempts" -lt $((20 * kills_wanted)) ] || fail "$kills kills in $attempts attempts"
    (run killed) >killed.log 2>&1 &
    pid=$!
    # $RANDOM has 15 bits: anywhere in the run, its beginning and end included
    sleep "$(awk -v r=$RANDOM -v ms="$duration" 'BEGIN { printf "%.3f", r / 32768 * ms / 1000 }')"
    if kill -9 "$pid" 2>/dev/null; then
        status=0
        wait "$pid" 2>/dev/null || status=$?
        if [ "$status" = 137 ]; then
            kills=$((kills + 1))
            continue
        fi
    else
        status=0
        wait "$pid" || status=$?
    fi
    [ "$status" = 0 ] || fail "a run ended with $status: $(tail -3 killed.log)"
    compare
    finished=$((finished + 1))
    rm -rf killed
done
(run killed) >killed.log 2>&1 || fail "the last run: $(tail -3 killed.log)"
compare
echo "$kills kills in $attempts starts, $((finished + 1)) runs finished: all with the same bits"
