#!/usr/bin/env bash
# Checkpoints that several processes write together: the bytes do not depend on how many they are, nor on what they
# divide; when one of them can not write, none has saved and all go on; one that dies leaves nothing that counts.
set -euo pipefail
source "$(dirname "$0")/train_common.sh"
source "$LATHE_SOURCE_DIR/tests/cli/processes_common.sh"
make_data

settings=(train --model model --data data.h5 --max-steps 4 --save-steps 2 --eval-steps 100 --eval-samples 0
    --global-batch-size 6 --learning-rate 1e-3 --optimizer adamw-8bit --threads 1)

train() { # PROCESSES OUTPUT OPTIONS...
    local n=$1 output=$2
    shift 2
    together "$n" "$LATHE" "${settings[@]}" --micro-batch-size $((6 / n)) --output "$output" "$@" >"$output.log" 2>&1 ||
        fail "$n processes, $*: $(cat "$output.log")"
}

same_checkpoints() { # DIRECTORY DIRECTORY
    local file
    for file in model.safetensors optimizer.safetensors config.json tokenizer.json; do
        cmp "$1/$file" "$2/$file" || fail "$1 and $2 differ in $file"
    done
}

# Nothing but whole checkpoints.
check_output() { # OUTPUT
    local path
    for path in "$1"/*; do
        case $path in
        *.tmp-* | */.trash-*) fail "$path is left" ;;
        */checkpoint-*) "$LATHE" inspect "$path" >/dev/null || fail "$path is damaged" ;;
        esac
    done
}

echo "--- the same bytes, by any number of processes"
train 2 first --shard none
for n in 3 1; do
    # all steps are done: what is read is written again
    train "$n" "again-$n" --shard parameters --resume first/checkpoint-4
    same_checkpoints first/checkpoint-4 "again-$n/checkpoint-4"
    check_output "again-$n"
    cmp first/final/model.safetensors "again-$n/final/model.safetensors" || fail "final/ differs"
done

damage() { # FILE
    printf 'damaged' | dd of="$1" bs=1 seek=$(($(stat -c %s "$1") / 2)) conv=notrunc 2>dd.log || fail "$(cat dd.log)"
}

echo "--- what is damaged is passed over, whoever reads it; without a checkpoint the same command starts again"
cp -r first damaged
cp -r damaged/checkpoint-4 damaged/checkpoint-3
damage damaged/checkpoint-3/optimizer.safetensors
damage damaged/checkpoint-4/model.safetensors
train 2 damaged
grep "passed over: damaged/checkpoint-4/model.safetensors is damaged" damaged.log >/dev/null || fail "$(cat damaged.log)"
grep "passed over: rank 1 .*damaged/checkpoint-3/optimizer.safetensors is" damaged.log >/dev/null || fail "$(cat damaged.log)"
grep "from damaged/checkpoint-2, step 2" damaged.log >/dev/null || fail "not resumed: $(cat damaged.log)"
cp -r first started
rm -r started/checkpoint-* started/final started/best
train 1 started
grep "ended before its first checkpoint: starting again" started.log >/dev/null || fail "$(cat started.log)"
[ ! -e started/logs ] || fail "logs of an earlier start are left"

echo "--- a directory that not all see; another start in one that was used"
mkdir elsewhere
model=(--model "$work/model" --data "$work/data.h5" --micro-batch-size 3 --output apart)
status=0
mpirun "${mpi_flags[@]}" -n 1 "$LATHE" "${settings[@]}" "${model[@]}" : -n 1 \
    bash -c 'cd elsewhere; exec "$@"' - "$LATHE" "${settings[@]}" "${model[@]}" >apart.log 2>&1 || status=$?
[ "$status" = 2 ] || fail "exit $status: $(cat apart.log)"
grep "rank 1 .*--output apart is not the directory that rank 0 has" apart.log >/dev/null || fail "$(cat apart.log)"
[ -e again-3/logs/rank-2.log ] || fail "no log of rank 2"
touch again-3/logs/mine
train 1 again-3 --force --resume never
[ -e again-3/logs/mine ] || fail "--force removed what was not Lathe's"
rm again-3/logs/mine
train 1 again-3 --force --resume never
[ ! -e again-3/logs ] || fail "logs of an earlier run are left"

if [ -z "${LATHE_FAULT_SHIM:-}" ] || ldd "$LATHE" | grep libasan >/dev/null; then
    echo "skipped: faults of the disk (a sanitized program can not have them)"
    exit 0
fi

# Two processes, of which one has a fault at its N-th operation on a checkpoint.
train_with_fault() { # RANK KIND N CHECKPOINT
    local output=${4%/*} faulty=(env "LD_PRELOAD=$LATHE_FAULT_SHIM" "LATHE_FAULT_UNDER=$work/$4" "LATHE_FAULT_KIND=$2"
        "LATHE_FAULT_AT=$3")
    local command=("$LATHE" "${settings[@]}" --micro-batch-size 3 --output "$output")
    local first=("${faulty[@]}" "${command[@]}") second=("${command[@]}")
    [ "$1" = 0 ] || { first=("${command[@]}") second=("${faulty[@]}" "${command[@]}"); }
    mpirun "${mpi_flags[@]}" -n 1 "${first[@]}" : -n 1 "${second[@]}" >"$output.log" 2>&1
}

echo "--- one that can not write: none has saved, and all go on"
for at in 0 1; do # opening it, and writing
    train_with_fault 1 enospc $at "full-$at/checkpoint-2" || fail "the run ended: $(cat "full-$at.log")"
    grep "checkpoint-2 was not saved: rank 1 .*model.safetensors.*No space left" "full-$at.log" >/dev/null ||
        fail "rank 1's disk was full, and nobody said so: $(cat "full-$at.log")"
    [ ! -e "full-$at/checkpoint-2" ] || fail "checkpoint-2 is there, without what rank 1 could not write"
    check_output "full-$at"
    same_checkpoints first/checkpoint-4 "full-$at/checkpoint-4"
done

echo "--- one that dies while it writes: what was saved before stays, and others go on from it"
for rank in 0 1; do
    output=killed-$rank
    ! train_with_fault $rank kill 3 $output/checkpoint-4 || fail "a run goes on without rank $rank: $(cat $output.log)"
    [ ! -e $output/checkpoint-4 ] || fail "a checkpoint without what rank $rank had to write"
    "$LATHE" inspect $output/checkpoint-2 >/dev/null || fail "checkpoint-2 was lost"
    train 3 $output
    grep "from $output/checkpoint-2" $output.log >/dev/null || fail "not resumed: $(cat $output.log)"
    check_output $output
    "$LATHE" inspect $output/checkpoint-4 >/dev/null || fail "no checkpoint after the restart"
done
