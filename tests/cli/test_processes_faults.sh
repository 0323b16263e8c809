#!/usr/bin/env bash
# Several processes that train together, and one of them is killed, stopped or asked to leave at a random moment: the
# others end in time and say why, nobody is left behind, every checkpoint that can be seen is whole, and the same command
# goes on to the very bits of a run that was left alone. A few times each; with LATHE_LONG_TESTS=1 200 kills and 50 stops,
# of 2 to 4 processes and every way to divide the model.
set -euo pipefail
source "$(dirname "$0")/train_common.sh"
source "$LATHE_SOURCE_DIR/tests/cli/processes_common.sh"

export LATHE_RESTART_BACKOFF=0.1
export LATHE_FAULT_DRILL=$$-$RANDOM # in the environment of all that this test starts, and of nothing else

kills_wanted=4 stops_wanted=1 set_ups=("3 optimizer")
if [ -n "${LATHE_LONG_TESTS:-}" ]; then
    kills_wanted=200 stops_wanted=50
    set_ups=("2 none" "3 optimizer" "4 gradients" "3 parameters")
fi
timeout=30 # of the watchdog, which is not to be faster than mpirun when a process has been killed

make_data
run() { # OUTPUT STEPS [OPTION...]
    local output=$1 steps=$2
    shift 2
    exec "$LATHE" train --model model --data data.h5 --output "$output" --max-steps "$steps" --learning-rate 1e-2 \
        --packing off --micro-batch-size 1 --save-steps 2 --eval-steps 10 --logging-steps 1 --resid-pdrop 0.1 \
        --eval-samples 0 --threads 1 --processes "$processes" --shard "$shard" --watchdog-timeout "$timeout" "$@"
}

milliseconds() { echo $(($(date +%s%N) / 1000000)); }

sleep_up_to() { # MILLISECONDS
    # $RANDOM has 15 bits: anywhere in the run, its beginning and end included
    sleep "$(awk -v r=$RANDOM -v ms="$1" 'BEGIN { printf "%.3f", r / 32768 * ms / 1000 }')"
}

# The processes that this test has started and that have such a variable.
find_processes() { # REGULAR EXPRESSION
    local file
    { grep -lzx "LATHE_FAULT_DRILL=$LATHE_FAULT_DRILL" /proc/[0-9]*/environ 2>/dev/null || true; } |
        while read -r file; do
            if grep -Eqz "^($1)=" "$file" 2>/dev/null; then echo "${file//[^0-9]/}"; fi
        done
}

random_rank() {
    local ranks
    mapfile -t ranks < <(find_processes 'OMPI_COMM_WORLD_RANK|PMI_RANK')
    [ ${#ranks[@]} -gt 0 ] && echo "${ranks[RANDOM % ${#ranks[@]}]}"
}

start() { # OUTPUT STEPS [OPTION...]
    (run "$@") >run.log 2>&1 &
    pid=$!
}

# Sets `status`. Not later than so long from now.
wait_for_end() { # SECONDS WHAT
    local begin
    begin=$(milliseconds)
    while kill -0 "$pid" 2>/dev/null; do
        [ $(($(milliseconds) - begin)) -lt $((1000 * $1)) ] || {
            kill -9 "$pid"
            fail "$2: the run had not ended after $1 s: $(tail -5 run.log)"
        }
        sleep 0.05
    done
    status=0
    wait "$pid" || status=$?
}

nobody_is_left() {
    local i left
    for i in $(seq 50); do
        left=$(find_processes LATHE_SUPERVISED)
        [ -z "$left" ] && return
        sleep 0.1
    done
    fail "processes are left behind after $1: $left"
}

checkpoints_are_whole() { # OUTPUT
    local checkpoint
    for checkpoint in "$1"/checkpoint-*; do
        case "$checkpoint" in *"*" | *.tmp-*) continue ;; esac
        "$LATHE" inspect "$checkpoint" >inspect.log 2>&1 || fail "$checkpoint: $(cat inspect.log)"
    done
}

compare() { # OUTPUT WHAT
    local file
    for file in final/model.safetensors checkpoint-$steps/optimizer.safetensors; do
        cmp "whole-$processes-$shard/$file" "$1/$file" || fail "$file differs after $2"
    done
    [ "$(grep -c '"event":"step"' "$1/log.jsonl")" = "$steps" ] || fail "log.jsonl has not each step once after $2"
    [ -z "$(find "$1" -name '*.tmp-*')" ] || fail "temporary files are left after $2: $(find "$1" -name '*.tmp-*')"
}

leave_one_alone() {
    local begin
    begin=$(milliseconds)
    (run "whole-$processes-$shard" "$steps") >whole.log 2>&1 || fail "the run that is left alone: $(tail -5 whole.log)"
    duration=$(($(milliseconds) - begin))
}

# --- Kills ------------------------------------------------------------------------------------------------------------

kill_until() { # KILLS
    local kills=0 attempts=0 victim
    while [ "$kills" -lt "$1" ]; do
        attempts=$((attempts + 1))
        [ "$attempts" -lt $((20 * $1 + 20)) ] || fail "$kills kills in $attempts attempts"
        start killed "$steps"
        sleep_up_to "$duration"
        victim=$(random_rank) || victim=
        if [ -n "$victim" ] && kill -9 "$victim" 2>/dev/null; then
            wait_for_end 10 "a kill"
            nobody_is_left "a kill"
            checkpoints_are_whole killed
            [ "$status" = 0 ] || {
                kills=$((kills + 1))
                [ "$status" = 1 ] || fail "a killed run ended with $status: $(tail -5 run.log)"
                grep 'lathe: error: .*killed by signal 9' run.log >/dev/null || fail "no cause: $(tail -5 run.log)"
                continue
            }
        else
            wait_for_end 60 "a run that was left alone"
            [ "$status" = 0 ] || fail "a run ended with $status: $(tail -5 run.log)"
        fi
        compare killed "$kills kills"
        rm -rf killed
    done
    (run killed "$steps") >run.log 2>&1 || fail "the last run: $(tail -5 run.log)"
    compare killed "$kills kills"
    rm -rf killed
    echo "$kills kills of $processes processes, --shard $shard, in $attempts starts: all with the same bits"
}

# --- Stops ------------------------------------------------------------------------------------------------------------

# The watchdog is three times as patient before the first step.
stop_one() {
    local victim
    start stopped 1000000
    if [ "$1" = training ]; then wait_for run.log '^saved' 1; fi
    sleep_up_to "$duration"
    until victim=$(random_rank); do # mpirun may not have started them yet
        kill -0 "$pid" 2>/dev/null || fail "nobody to stop: $(tail -5 run.log)"
        sleep 0.01
    done
    kill -STOP "$victim" || fail "process $victim is not there to be stopped"
    wait_for_end $((3 * timeout + 10)) "a stop"
    nobody_is_left "a stop"
    checkpoints_are_whole stopped
    [ "$status" = 76 ] || fail "a run with a stopped process ended with $status: $(tail -5 run.log)"
    # the last collectives, unless it had not come to any
    grep -h '^ *#[0-9]* ' stopped/logs/rank-*.log >/dev/null 2>&1 ||
        { [ "$1" = any ] && grep 'no progress' run.log >/dev/null; } ||
        fail "no flight record in $(ls stopped/logs): $(tail -5 run.log)"
    rm -rf stopped
}

# --- Leaving, and starting again --------------------------------------------------------------------------------------

# Signals a random one once so many lines have come. False: the run was over before.
signal_one() { # SIGNAL PATTERN LINES
    local victim
    wait_for run.log "$2" "$3"
    victim=$(random_rank) && kill "-$1" "$victim" 2>/dev/null
}

# Until one was in time: on a busy machine a run may be over before it gets the signal.
several_times() { # COMMAND: true where it was
    local i
    for i in 1 2 3 4 5; do
        if "$1"; then return; fi
    done
    fail "$1 was late 5 times: $(tail -5 run.log)"
}

# Asked of one, all save and leave.
ask_one_to_leave() {
    rm -rf asked
    start asked "$steps"
    signal_one TERM '^step' 3 || true
    wait_for_end 20 "SIGTERM to one process"
    nobody_is_left "SIGTERM to one process"
    [ "$status" != 0 ] || return 1 # it had taken its last step
    [ "$status" = 130 ] || fail "ended with $status after SIGTERM to one process: $(tail -5 run.log)"
    checkpoints_are_whole asked
    [ -n "$(find asked -maxdepth 1 -name 'checkpoint-*')" ] || fail "no checkpoint after SIGTERM"
    (run asked "$steps") >run.log 2>&1 || fail "going on after SIGTERM: $(tail -5 run.log)"
    compare asked "SIGTERM to one process"
}

start_again_by_itself() {
    rm -rf again
    start again "$steps" --max-restarts 2
    signal_one KILL '^saved' 2 || true
    wait_for_end 60 "a restart"
    nobody_is_left "a restart"
    [ "$status" = 0 ] || fail "--max-restarts did not help: $(tail -5 run.log)"
    grep 'lathe: starting again from checkpoint-' run.log >/dev/null || return 1
    compare again "a restart"
}

steps=40
for set_up in "${set_ups[@]}"; do
    read -r processes shard <<<"$set_up"
    leave_one_alone
    kill_until $((kills_wanted / ${#set_ups[@]}))
    several_times ask_one_to_leave
    several_times start_again_by_itself
done

timeout=2
for i in $(seq "$stops_wanted"); do
    read -r processes shard <<<"${set_ups[i % ${#set_ups[@]}]}"
    if [ $((i % 3)) = 0 ]; then stop_one any; else stop_one training; fi
done
echo "$stops_wanted stops: all ended by the watchdog"
