#!/usr/bin/env bash
# Evaluations that are killed, interrupted or find the disk full: the same command goes on from the samples it has, and ends
# with the very samples and results of a run that was left alone. 10 kills, or 200 with LATHE_LONG_TESTS=1.
set -euo pipefail
source "$(dirname "$0")/train_common.sh"

kills_wanted=10 fault_stride=11
[ -n "${LATHE_LONG_TESTS:-}" ] && kills_wanted=200 fault_stride=1

make_data
"$LATHE" prepare --input data.jsonl --tokenizer "$LATHE_SOURCE_DIR/tests/golden/dolly" --output half.h5 --validation 0.6 \
    --force >prepare.log || fail "prepare"
awk 'BEGIN {
    split("amber birch cedar dune ember", w, " ")
    for (i = 0; i < 700; i++)
        printf "{\"query\": \"%s %d is next to\", \"choices\": [\"%s\", \"the %s\", \"%s %s\"], \"gold\": %d}\n",
            w[i % 5 + 1], i, w[(i + 1) % 5 + 1], w[(i * i) % 5 + 1], w[i % 3 + 1], w[i % 4 + 1], i % 3
}' >choices.jsonl

evaluate() { # OUTPUT ARGUMENTS...
    exec "$LATHE" eval --model model --threads 1 --bootstrap 100 --max-new-tokens 12 --output "$@"
}
clean() { grep -vE '"(date|total_evaluation_time_seconds)"' "$1"; }
same() { # DIRECTORY DIRECTORY: samples and results, whatever their dates
    local file other
    for file in $(cd "$1" && find . -name '*.json*' | sort); do
        other=$(echo "$2/${file%_*}"_*."${file##*.}")
        [ -f "$other" ] || fail "$2 lacks ${file%_*}: $(find "$2")"
        case $file in
        *.jsonl) cmp "$1/$file" "$other" || fail "$file: samples differ" ;;
        *) cmp <(clean "$1/$file") <(clean "$other") || fail "$file: results differ" ;;
        esac
    done
    [ "$(find "$1" -type f | wc -l)" = "$(find "$2" -type f | wc -l)" ] || fail "other files: $(find "$1" "$2" -type f)"
    [ -z "$(find "$2" -name '*.tmp-*' -o -name '*.partial.*')" ] || fail "left: $(find "$2" -type f)"
}

echo "--- kills: the samples and results of a run that was left alone"
all=(--data half.h5 --tasks choices.jsonl --text data.jsonl --compare other)
cp -r model other
"$LATHE" init --family gpt2 --layers 2 --hidden-size 32 --heads 2 --max-position 160 --seed 9 \
    --tokenizer "$LATHE_SOURCE_DIR/tests/golden/dolly" --output again >init.log && rm -r other && mv again other
begin=$(date +%s%N)
(evaluate whole "${all[@]}") >whole.log 2>&1 || fail "the run that is left alone: $(tail -3 whole.log)"
duration=$((($(date +%s%N) - begin) / 1000000)) # ms
kills=0 finished=0 resumed=0 attempts=0
while [ "$kills" -lt "$kills_wanted" ]; do
    attempts=$((attempts + 1))
    [ "$attempts" -lt $((20 * kills_wanted)) ] || fail "$kills kills in $attempts attempts"
    (evaluate killed "${all[@]}") >killed.log 2>&1 &
    pid=$!
    sleep "$(awk -v r=$RANDOM -v ms="$duration" 'BEGIN { printf "%.3f", r / 32768 * ms / 1000 }')"
    kill -9 "$pid" 2>/dev/null || true
    status=0
    wait "$pid" 2>/dev/null || status=$?
    resumed=$((resumed + $(grep -c "going on behind" killed.log || true)))
    if [ "$status" = 137 ]; then
        kills=$((kills + 1))
        # it may have been done, but for its end
        [ -e killed/report.html ] && [ -z "$(find killed -name '*.partial.*')" ] || continue
        status=0
    fi
    [ "$status" = 0 ] || fail "a run ended with $status: $(tail -3 killed.log)"
    same whole killed
    finished=$((finished + 1))
    rm -rf killed
done
(evaluate killed "${all[@]}") >killed.log 2>&1 || fail "the last run: $(tail -3 killed.log)"
same whole killed
[ "$resumed" -gt 0 ] || fail "no run went on from another"
echo "$kills kills in $attempts starts, $((finished + 1)) runs finished"

echo "--- Ctrl-C: kept, and on from there"
for _ in $(seq 30); do cat choices.jsonl; done >many.jsonl
(evaluate stopped --tasks many.jsonl) >stopped.log 2>&1 &
pid=$!
for _ in $(seq 400); do
    [ "$(cat stopped/model/*.partial.jsonl 2>/dev/null | wc -l)" -gt 600 ] && break
    sleep 0.02
done
kill -INT "$pid"
status=0
wait "$pid" || status=$?
[ "$status" = 130 ] || fail "Ctrl-C ended with $status: $(tail -3 stopped.log)"
grep -q '^lathe: stopping after this batch; again to stop at once$' stopped.log || fail "$(cat stopped.log)"
grep -q 'stopped after [0-9]* of 21000 documents; the same command goes on from there' stopped.log || fail "$(cat stopped.log)"
[ ! -e stopped/report.html ] || fail "a report of an unfinished evaluation"
(evaluate stopped --tasks many.jsonl) >on.log 2>&1 &
pid=$!
for _ in $(seq 400); do
    grep -q 'going on behind' on.log && break
    sleep 0.02
done
grep -qE 'many: going on behind [1-9][0-9]* of 21000 documents' on.log || fail "it does not go on: $(cat on.log)"

echo "--- two in one directory"
status=0
(evaluate stopped --tasks many.jsonl) >second.log 2>&1 || status=$?
[ "$status" = 2 ] && grep -q 'another lathe eval is at work in stopped' second.log || fail "exit $status: $(cat second.log)"

echo "--- a second signal stops it at once"
kill -STOP "$pid" # both are there when it goes on
kill -INT "$pid"
kill -TERM "$pid"
kill -CONT "$pid"
status=0
wait "$pid" || status=$?
[ "$status" = 130 ] && ! grep -q 'stopped after' on.log || fail "exit $status: $(tail -3 on.log)"

echo "--- another model, other settings: samples are not mixed"
(evaluate mixed --tasks choices.jsonl) >mixed.log 2>&1 || fail "$(tail -3 mixed.log)"
rm -r mixed/*
(evaluate mixed --tasks many.jsonl) >mixed.log 2>&1 &
pid=$!
for _ in $(seq 400); do
    [ "$(cat mixed/model/*.partial.jsonl 2>/dev/null | wc -l)" -gt 600 ] && break
    sleep 0.02
done
kill -9 "$pid"
wait "$pid" 2>/dev/null || true
mv mixed/model/samples_many.partial.jsonl mixed/model/samples_choices.partial.jsonl
cp other/model.safetensors model/
(evaluate mixed --tasks choices.jsonl --batch-size 3) >mixed.log 2>&1 || fail "$(tail -3 mixed.log)"
grep -q 'of another evaluation (another model, another batch size, another task)' mixed.log || fail "$(cat mixed.log)"
[ "$(ls mixed/model/*.stale.jsonl | wc -l)" = 1 ] || fail "the samples of the other evaluation are gone: $(ls mixed/model)"

echo "--- every point at which a disk may fail: nothing is lost, and the same command ends well"
short=(--tasks choices.jsonl --limit 12 --text long.txt)
head -c 2000 data.jsonl >long.txt
(evaluate good "${short[@]}") >good.log 2>&1 || fail "$(tail -3 good.log)"
if [ -z "${LATHE_FAULT_SHIM:-}" ] || ldd "$LATHE" | grep libasan >/dev/null; then
    echo "skipped: no fault shim, or a sanitized program"
else
    faults=0
    for kind in enospc eio short kill; do
        # a run has about 65 such operations
        for at in $(seq $((RANDOM % fault_stride)) $fault_stride 70); do
            rm -rf faulty
            status=0
            {
                (
                    export LD_PRELOAD="$LATHE_FAULT_SHIM" LATHE_FAULT_UNDER="$PWD/faulty" LATHE_FAULT_AT=$at
                    export LATHE_FAULT_KIND=$kind
                    evaluate faulty "${short[@]}"
                ) >faulty.log 2>&1
            } 2>/dev/null || status=$?
            if [ "$status" = 0 ]; then # not every operation matters
                same good faulty
                continue
            fi
            [ "$status" = 1 ] || [ "$status" = 137 ] || fail "$kind at $at: exit $status: $(tail -3 faulty.log)"
            [ "$status" = 137 ] || grep -q 'faulty' faulty.log || fail "$kind at $at: no file is named: $(cat faulty.log)"
            (evaluate faulty "${short[@]}") >after.log 2>&1 || fail "after $kind at $at: $(tail -3 after.log)"
            same good faulty
            faults=$((faults + 1))
        done
    done
    [ "$faults" -gt 8 ] || fail "only $faults faults"
    echo "$faults faults"
fi

echo "--- a full disk: what is there stays, and is gone on from when there is room"
mkdir disk
if mount -t tmpfs -o size=400k tmpfs disk 2>/dev/null; then
    trap 'umount "$work/disk"; cleanup' EXIT
    status=0
    (evaluate disk/out --tasks choices.jsonl) >disk.log 2>&1 || status=$?
    [ "$status" = 1 ] || fail "exit $status with a full disk: $(tail -3 disk.log)"
    grep -qE 'disk/out/.*No space left on device' disk.log || fail "$(tail -3 disk.log)"
    began=$(sed -nE '1s/.*"date": ?"([^"]*)".*/\1/p' disk/out/model/samples_choices.partial.jsonl)
    mount -o remount,size=4m disk
    (evaluate disk/out --tasks choices.jsonl) >disk.log 2>&1 || fail "$(tail -3 disk.log)"
    [ -s "disk/out/model/results_${began//:/-}.json" ] || fail "not of $began: $(ls disk/out/model)"
    grep -q 'going on behind' disk.log || fail "it started again: $(cat disk.log)"
    (evaluate roomy --tasks choices.jsonl) >roomy.log 2>&1 || fail "$(tail -3 roomy.log)"
    same roomy disk/out
else
    echo "skipped: a tmpfs can not be mounted here"
fi
echo "all well"
