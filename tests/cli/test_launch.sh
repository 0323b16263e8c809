#!/usr/bin/env bash
# lathe train that starts processes by itself: what it refuses, what it says when they fail, exit codes, signals,
# restarts. Where the processes need not train, a script stands in for mpirun.
# shellcheck disable=SC2016 # what a stand-in does is expanded there
set -euo pipefail
source "$(dirname "$0")/train_common.sh"
export ASAN_OPTIONS="detect_leaks=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}" # MPI's own

make_data
train() { "$LATHE" train --model model --data data.h5 "$@"; }

start() { # LOG COMMAND...
    "${@:2}" >"$1" 2>err.log &
    pid=$!
}

expect() { # CODE PATTERN COMMAND...
    local wanted=$1 pattern=$2 status=0
    shift 2
    "$@" >out.log 2>err.log || status=$?
    [ "$status" = "$wanted" ] || fail "$*: ended with $status, not $wanted: $(cat err.log)"
    [ -z "$pattern" ] || grep -e "$pattern" err.log >/dev/null || fail "$*: '$pattern' is not in: $(cat err.log)"
}
says_once() { # PATTERN
    [ "$(grep -c -e "$1" err.log)" = 1 ] || fail "not said once: $(cat err.log)"
}

# --- Refused, before anything is started -------------------------------------------------------------------------------

export LATHE_MPIRUN=/bin/false # would be told of
for gpus in two 0 -1 "0," "0,x" 65 1.5 ""; do
    expect 2 "lathe: error: --gpus $gpus: give how many GPUs to use (4), or which (0,2,3)" \
        train --output out "--gpus=$gpus"
done
expect 2 'lathe: error: --gpus and --processes do not go together' train --output out --gpus 2 --processes 2
expect 2 'lathe: error: --gpus and --device cpu do not go together' train --output out --gpus 2 --device cpu
expect 2 'lathe: error: --processes starts them on the CPU' train --output out --processes 2 --device cuda:1
expect 2 'lathe: error: --max-restarts is for processes that lathe itself starts' \
    train --output out --max-restarts 3
expect 2 'here torchrun does that' env RANK=0 WORLD_SIZE=2 "$LATHE" train --model model --max-restarts 3
expect 2 'here Slurm does that' \
    env SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=2 "$LATHE" train --model model --max-restarts 3
expect 2 'here mpirun started it' \
    env OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=2 "$LATHE" train --model model --max-restarts 3
expect 2 '--processes starts processes, and this one is one of 4 that srun started; leave it out' \
    env SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=4 "$LATHE" train --model model --processes 2
expect 1 '2 processes on the CPU, and MPI did not start them: RANK and WORLD_SIZE, as torchrun sets them' \
    env RANK=0 WORLD_SIZE=2 "$LATHE" train --model model --data data.h5 --output out --device cpu
expect 2 '--gpus starts processes, and this one is one of 2 that torchrun variables started' \
    env RANK=0 WORLD_SIZE=2 "$LATHE" train --model model --gpus 2
expect 2 'the environment has RANK=2, which is not a whole number from 0 to 1' \
    env RANK=2 WORLD_SIZE=2 "$LATHE" train --model model
expect 2 'the environment has RANK and no WORLD_SIZE' env RANK=0 "$LATHE" train --model model
expect 2 'unknown option' train --processes 2 --oops 3
says_once 'lathe: error'
[ ! -e out ] || fail "a refused command has made its output directory"
[ "$("$LATHE" train --help | grep -c -e '--max-restarts')" -ge 1 ] || fail "no help"

# no machine has the 64th GPU, and most that run this have none
status=0
train --output out --gpus 0,63 >out.log 2>err.log || status=$?
[ "$status" = 1 ] || [ "$status" = 2 ] || fail "a GPU that is not there: ended with $status"
grep 'lathe: error: --gpus 0,63: ' err.log >/dev/null || fail "a GPU that is not there: $(cat err.log)"

# of several codes srun tells the highest: one that is ended because of what rank 0 said ends with the same
SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2 start out.log "$LATHE" train --model model --oops 3
for _ in $(seq 500); do
    caught=$(sed -n 's/^SigCgt:[[:space:]]*//p' /proc/$pid/status)
    [ $((0x$caught & 0x4000)) = 0 ] || break
    sleep 0.01
done
kill -TERM $pid
status=0
wait $pid || status=$?
[ "$status" = 2 ] && [ ! -s err.log ] || fail "rank 1 ended with $status, and said $(cat err.log)"

# --- mpirun -----------------------------------------------------------------------------------------------------------

mkdir nothing
expect 1 'need mpirun, which is not on PATH: install Open MPI' \
    env -u LATHE_MPIRUN PATH="$PWD/nothing" "$LATHE" train --model model --data data.h5 --output out --processes 2
expect 1 'need no-such-mpirun, which is not on PATH' \
    env LATHE_MPIRUN=no-such-mpirun "$LATHE" train --model model --data data.h5 --output out --processes 2
expect 1 '/bin/false --version fails (code 1): is it an mpirun' train --output out --processes 2

# One that does what $PLAY says, and keeps its arguments.
cat >mpirun <<'END'
#!/bin/bash
if [ "$*" = --version ]; then
    echo "${VERSION:-mpirun (Open MPI) 4.1.4}"
    exit
fi
printf '%s\n' "$@" >>arguments
env | grep -E '^(LATHE_SUPERVISED|LATHE_GPUS|TORCHELASTIC_RESTART_COUNT|RANK|WORLD_SIZE)=' >>variables
rule=--------------------------------------------------------------------------
eval "$PLAY"
END
chmod +x mpirun
export LATHE_MPIRUN=$PWD/mpirun LATHE_RESTART_BACKOFF=0.01
play() { # CODE PATTERN PLAY [OPTION...]
    local wanted=$1 pattern=$2
    export PLAY=$3
    shift 3
    rm -f arguments variables
    expect "$wanted" "$pattern" train --output out --processes 3 "$@"
}

play 0 '' 'echo done' --threads 1
[ "$(cat out.log)" = "done" ] || fail "the output of the processes: $(cat out.log)"
for word in --oversubscribe --bind-to none -n 3 train --output out --processes --threads; do
    grep -x -e "$word" arguments >/dev/null || fail "no $word in the arguments: $(cat arguments)"
done
[ "$(id -u)" != 0 ] || grep -x -e --allow-run-as-root arguments >/dev/null || fail "not allowed to run as root"
[ "$(sort variables | tr '\n' ' ')" = "LATHE_SUPERVISED=1 TORCHELASTIC_RESTART_COUNT=0 " ] ||
    fail "variables: $(cat variables)"
VERSION="HYDRA build details:" play 0 '' 'echo done'
grep -x -e '--oversubscribe\|--bind-to' arguments >/dev/null && fail "flags of Open MPI for another one"
RANK=0 WORLD_SIZE=1 play 0 '' ':'
grep RANK variables >/dev/null && fail "RANK is not for those that mpirun starts"

# what failed is told, once, and mpirun's own words are not
play 1 'lathe: error: rank 2 was killed by signal 9 (Killed); all processes were ended' '
    echo $rule >&2; echo "Primary job  terminated normally, but 1 process returned" >&2; echo $rule >&2
    echo $rule >&2
    echo "mpirun noticed that process rank 2 with PID 0 on node n exited on signal 9 (Killed)." >&2
    echo $rule >&2; exit 137'
[ "$(wc -l <err.log)" = 1 ] || fail "more than the cause: $(cat err.log)"
play 1 'lathe: error: a process was killed by signal 11 (Segmentation fault)' '
    echo "=================================================================================="
    echo "=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES"
    echo "YOUR APPLICATION TERMINATED WITH THE EXIT STRING: Segmentation fault (signal 11)"; exit 11'
[ ! -s out.log ] || fail "mpirun's words in the output: $(cat out.log)"
play 1 'lathe: error: no such file' 'echo "lathe: error: no such file" >&2
    echo $rule >&2; echo "Primary job" >&2; echo $rule >&2; exit 1'
[ "$(wc -l <err.log)" = 1 ] || fail "more than the cause: $(cat err.log)"
play 2 'lathe: error: wrong option' 'echo "lathe: error: wrong option" >&2; exit 2' --max-restarts 2
[ "$(wc -l <err.log)" = 1 ] || fail "a usage error is no reason to start again: $(cat err.log)"
play 76 'a process made no progress or waited for one that made none; all processes were ended, and out/logs' \
    'echo "rank 1 (n): no progress for 2 s" >&2; exit 76'
grep '^rank 1 (n): no progress' err.log >/dev/null || fail "the watchdog's words are gone: $(cat err.log)"
play 76 'made no progress or waited for one that made none' 'echo "rank 1 (n): no progress for 2 s" >&2
    echo $rule >&2; echo "with errorcode 76." >&2; echo $rule >&2
    echo $rule >&2; echo "mpirun noticed that process rank 2 with PID 0 on node n exited on signal 9 (Killed)." >&2
    echo $rule >&2; exit 137'
# one that does not see that its processes have ended
play 1 'lathe: error: a process was killed by signal 9' 'bash -c "kill -9 \$\$" & exec sleep 20'
# one that takes its time, but sees it
play 1 'lathe: error: bad disk' 'echo "lathe: error: bad disk" >&2; true & exec perl -e "sleep 2; exit 1"'
grep "did not notice" err.log && fail "an mpirun that was slow was told to be stuck"
play 3 'lathe: error: rank 1 ended with code 3' 'echo $rule >&2; echo "  Process name: [[12,1],1]" >&2
    echo $rule >&2; exit 3'
# nothing else is known: then mpirun's words are all there is
play 1 'There are not enough slots' 'echo $rule >&2; echo "There are not enough slots" >&2; echo $rule >&2; exit 1'
grep "lathe: error: $LATHE_MPIRUN ended with code 1" err.log >/dev/null || fail "no end: $(cat err.log)"
play 1 "lathe: error: $LATHE_MPIRUN was killed by signal 9" 'kill -9 $$'
play 1 'lathe: error: a process was killed by signal 9' 'echo "mpirun: aborted"; exit 137'
play 130 '' 'exit 130' --max-restarts 2
[ ! -s err.log ] || fail "an interruption is no failure: $(cat err.log)"

# --- Starting again ---------------------------------------------------------------------------------------------------

play 1 'lathe: error: given up after 2 restarts without a new checkpoint in out' \
    'echo "lathe: error: bad disk" >&2; exit 1' --max-restarts 2
[ "$(grep -c 'bad disk' err.log)" = 3 ] || fail "not two restarts: $(cat err.log)"
[ "$(grep COUNT variables | cut -d= -f2 | tr '\n' ' ')" = "0 1 2 " ] || fail "counts: $(cat variables)"
grep 'lathe: starting again from the beginning in 0.02 s (restart 2 of 2)' err.log >/dev/null ||
    fail "no word of a restart: $(cat err.log)"
play 0 'lathe: starting again from checkpoint-4 in 0.01 s (restart 1 of 1)' '
    [ -e out/checkpoint-4 ] && exit 0
    [ -e out/checkpoint-2 ] && mkdir -p out/checkpoint-4 && exit 1
    mkdir -p out/checkpoint-2; exit 1' --max-restarts 1 --force
[ "$(grep -c -x -e --no-force arguments)" = 2 ] || fail "--force again: $(cat arguments)"
rm -rf out

# --- Signals ----------------------------------------------------------------------------------------------------------

# mpirun passes SIGUSR1 on and ends everything on the others
for signal in TERM INT USR1; do
    export PLAY='trap "echo saved; exit 130" USR1; echo up; for i in $(seq 500); do sleep 0.02; done'
    start run.log "$LATHE" train --model model --output out --processes 2 --max-restarts 2
    wait_for run.log up 1
    kill -$signal $pid
    status=0
    wait $pid || status=$?
    [ "$status" = 130 ] || fail "ended with $status after SIG$signal: $(cat err.log)"
    [ "$(tr '\n' ' ' <run.log)" = "up saved " ] || fail "after SIG$signal: $(cat run.log)"
    says_once 'lathe: stopping after this step'
done
# and the pause before a restart ends at once
export PLAY='exit 1' LATHE_RESTART_BACKOFF=50
start run.log "$LATHE" train --model model --output out --processes 2 --max-restarts 2
wait_for err.log 'starting again' 1
kill -TERM $pid
status=0
wait $pid || status=$?
[ "$status" = 130 ] || fail "ended with $status after SIGTERM before a restart"

# --- One process, without mpirun --------------------------------------------------------------------------------------

export LATHE_MPIRUN=/bin/false
options=(--max-steps 4 --packing off --micro-batch-size 2 --save-steps 2 --eval-samples 0 --threads 1)
train --output plain "${options[@]}" >plain.log || fail "training: $(tail -3 plain.log)"
train --output one "${options[@]}" --processes 1 --max-restarts 1 >one.log || fail "one process: $(tail -3 one.log)"
cmp plain/final/model.safetensors one/final/model.safetensors || fail "--processes 1 trains something else"
expect 2 "is not empty" train --output one "${options[@]}" --processes 1 --resume never
says_once 'lathe: error'
start many.log "$LATHE" train --model model --data data.h5 --output many --max-steps 100000 --micro-batch-size 2 \
    --save-steps 100000 --processes 1
wait_for many.log '^step' 2
kill -TERM $pid
status=0
wait $pid || status=$?
[ "$status" = 130 ] || fail "ended with $status after SIGTERM: $(tail -3 many.log)"
grep '^saved many/checkpoint' many.log >/dev/null || fail "no checkpoint after SIGTERM: $(tail -3 many.log)"

# --- By mpirun itself, a mistake is told once -------------------------------------------------------------------------

unset LATHE_MPIRUN
if command -v mpirun >/dev/null && mpirun --version | grep open-mpi.org >/dev/null; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    expect 2 'unknown option' mpirun --oversubscribe -n 2 "$LATHE" train --model model --oops 3
    says_once 'lathe: error'
    expect 2 '--processes starts processes, and this one is one of 2 that mpirun started' \
        mpirun --oversubscribe -n 2 "$LATHE" train --model model --data data.h5 --output out --processes 2
    says_once 'lathe: error'

    # Like srun, which does not tell of deaths: Slurm's variables, and PMIx from mpirun.
    expect 1 'srun has started these 2 processes without PMIx' env SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=2 \
        "$LATHE" train --model model --data data.h5 --output out --device cpu
    cat >as_srun <<'END'
#!/bin/bash
unset "${!OMPI_COMM_WORLD_@}"
export SLURM_PROCID=$PMIX_RANK SLURM_LOCALID=$PMIX_RANK SLURM_STEP_NUM_TASKS=2
exec "$@"
END
    chmod +x as_srun
    export MASTER_ADDR=127.0.0.1 MASTER_PORT=$((20000 + $$ % 10000))
    start srun.log mpirun --oversubscribe --bind-to none -n 2 ./as_srun "$LATHE" train --model model --data data.h5 \
        --output srun --max-steps 100000 --micro-batch-size 2 --save-steps 100000 --threads 1 --device cpu
    wait_for srun.log '^step' 1
    kill -9 "$(sed -n 's/.*rank 1 of 2 .*process \([0-9]*\).*/\1/p' srun/logs/rank-1.log)"
    wait $pid && fail "a run ends well without one of its processes"
    grep '^rank 0 (.*): rank 1 (.*) is gone' err.log >/dev/null || fail "no cause: $(cat err.log)"
    unset MASTER_ADDR MASTER_PORT
fi

# --- scripts/launch ---------------------------------------------------------------------------------------------------

launch=$LATHE_SOURCE_DIR/scripts/launch
for script in "$launch"/*; do
    bash -n "$script" || fail "$script"
done
export LATHE PLAY='exit 0'

# Stands in for srun and torchrun, which most machines that run this do not have.
mkdir bin
cat >bin/srun <<'END'
#!/bin/bash
printf '%s\n' "$MASTER_ADDR:$MASTER_PORT" "$@" >>arguments
eval "$PLAY"
END
cp bin/srun bin/torchrun
cat >bin/scontrol <<'END'
#!/bin/bash
case "$1 $2" in
    "show hostnames") printf '%s\n' node3 node4 ;;
    *) echo "$@" >>requeued ;;
esac
END
chmod +x bin/*
slurm() { # CODE REQUEUED? PLAY [VARIABLE...]
    local wanted=$1 again=$2 status=0
    export PLAY=$3
    shift 3
    rm -f arguments requeued
    env PATH="$PWD/bin:$PATH" SLURM_JOB_ID=20007 SLURM_JOB_NODELIST='node[3-4]' "$@" \
        "$launch/slurm.sbatch" --output out >out.log 2>&1 || status=$?
    [ "$status" = "$wanted" ] || fail "slurm.sbatch ended with $status, not $wanted: $(cat out.log)"
    grep -x node3:20007 arguments >/dev/null || fail "rank 0's place: $(cat arguments)"
    [ "$([ -e requeued ] && echo yes || echo no)" = "$again" ] || fail "after $wanted: queued again, or not"
}
slurm 0 no 'exit 0'
slurm 2 no 'exit 2'
slurm 130 yes 'exit 130' SLURM_RESTART_COUNT=40
slurm 76 yes 'exit 76'
slurm 1 no 'exit 1' SLURM_RESTART_COUNT=5
rm arguments
PLAY='exit 0' PATH="$PWD/bin:$PATH" "$launch/one_host.sh" torchrun 8 --output out
grep -x -e --nproc-per-node arguments >/dev/null || fail "torchrun: $(cat arguments)"
expect 2 'scripts/launch/one_host.sh gpus 8' "$launch/one_host.sh" no-such-way 2
expect 1 'HOSTS' "$launch/two_hosts.sh" --output out

if command -v mpirun >/dev/null; then
    options+=(--model model --data data.h5)
    "$launch/one_host.sh" processes 2 "${options[@]}" --output two >two.log 2>&1 || fail "processes: $(tail -3 two.log)"
    "$launch/one_host.sh" mpirun 2 "${options[@]}" --output both >both.log 2>&1 || fail "mpirun: $(tail -3 both.log)"
    cmp two/final/model.safetensors both/final/model.safetensors || fail "not the same model"
fi
