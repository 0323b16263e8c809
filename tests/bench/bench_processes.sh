#!/usr/bin/env bash
# Several processes on this machine's CPU: what they cost, and whether train/scaling.c foresees it.
#
#   tests/bench/bench_processes.sh LATHE BENCHMARKS [--quick]
#
# LATHE the program, BENCHMARKS the folder with bench_comm and bench_scaling. First one process of two threads against two
# of one, on the same batches: at least 0.9 of the throughput is wanted. Then 2 and 4 processes at every level of sharding,
# with batches so small that exchanging counts: the prediction, from parts that are measured alone, and then the step as it
# is.
#
# The parts: a single process's step, measured while as many others as there will be do the same and none of them exchanges
# anything; the collectives of bench_comm at the size of a block. That a divided optimizer steps less is left out, and so
# is that more processes than cores wait for those that are not running. Needs mpirun; figures mean something on a machine
# that does nothing else.
set -euo pipefail
lathe=$(realpath "${1:?the program}") bench=$(realpath "${2:?the folder of benchmarks}")
steps=24 small_steps=60
[ "${3:-}" != --quick ] || steps=8 small_steps=20
cd "$(dirname "$0")/../.."
if ! command -v mpirun >/dev/null; then
    echo "  skipped: mpirun is not installed"
    exit 0
fi
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 GOMP_SPINCOUNT=2000
if mpirun --version | grep open-mpi.org >/dev/null; then flags=(--oversubscribe --bind-to none); else flags=(-bind-to none); fi
if [ -w /dev/shm ]; then work=$(mktemp -d /dev/shm/lathe-bench-XXXXXX); else work=$(mktemp -d); fi
trap 'rm -rf "$work"' EXIT

calculate() { awk "BEGIN { printf \"${2:-%.6f}\", $1 }"; } # EXPRESSION [FORMAT]
median() { # OUTPUT: of the steps' seconds, the first two left out
    sed -nE 's/.*"step_time": *([0-9.eE+-]+).*/\1/p' "$1/log.jsonl" | sed 1,2d | sort -g | awk '{ t[NR] = $1 } END { print t[int((NR + 1) / 2)] }'
}
train() { # OUTPUT ROWS LENGTH STEPS OPTIONS...
    echo "$lathe train --model $work/model --data $work/data.h5 --output $work/$1 --micro-batch-size $2 --max-length $3" \
        "--max-steps $4 --logging-steps 1 --eval-samples 0 --eval-steps 1000000 --save-steps 1000000 ${*:5}"
}
together() { # PROCESSES OUTPUT ROWS LENGTH STEPS OPTIONS...
    local log=$work/$2.txt
    OMP_NUM_THREADS=1 mpirun "${flags[@]}" -n "$1" $(train "${@:2}") >"$log" 2>&1 ||
        { echo "FAILED: $2: $(tail -n 5 "$log")"; exit 1; }
    median "$work/$2"
}
# So many at once that know nothing of each other: the median of the first one's steps.
apart() { # PROCESSES ROWS LENGTH STEPS
    local i children=() name=apart-$1
    for i in $(seq "$1"); do
        OMP_NUM_THREADS=1 $(train "$name-$i" "$2" "$3" "$4") >/dev/null &
        children+=($!)
    done
    for i in "${children[@]}"; do wait "$i"; done
    median "$work/$name-1"
}

"$lathe" tokenizer train --input scripts/sample_data/assistant.jsonl --vocab-size 4000 --output "$work/tokenizer" >/dev/null
"$lathe" init --preset gpt2-small-cpu --tokenizer "$work/tokenizer" --output "$work/model" --seed 1 >/dev/null
"$lathe" prepare --input scripts/sample_data/assistant.jsonl --tokenizer "$work/tokenizer" --output "$work/data.h5" \
    --max-length 128 >/dev/null

OMP_NUM_THREADS=2 $(train threads 16 128 "$steps") >/dev/null
threads=$(median "$work/threads")
processes=$(together 2 processes 8 128 "$steps")
echo "  16 rows of 128 tokens: 1 process of 2 threads $threads s, 2 processes of 1 thread $processes s:" \
    "$(calculate "$threads / $processes" %.2f) of the throughput"

block=$((4 * (12 * 256 * 256 + 13 * 256))) # bytes of a block of this model
for count in 2 4; do
    alone=$(apart "$count" 1 128 "$small_steps")
    mpirun "${flags[@]}" -n "$count" "$bench/bench_comm" "$block" >"$work/comm.txt"
    echo "  $count processes, a row of 128 tokens each. Side by side, without exchange: $alone s"
    sed 's/^/    /; /exchange/d' "$work/comm.txt"
    for shard in none optimizer gradients parameters; do
        read -r predicted exposed < <("$bench/bench_scaling" "$work/model" "$count" "$shard" 1 "$alone" 0 \
            $(sed -n 's/^exchange //p' "$work/comm.txt"))
        printf '    --shard %-10s predicted %s s, of it %s s exchange; ' "$shard" "$predicted" "$exposed"
        measured=$(together "$count" "$shard-$count" 1 128 "$small_steps" --shard "$shard")
        printf 'measured %.6f s, %s of the prediction\n' "$measured" "$(calculate "$measured / $predicted" %.2f)"
    done
done
