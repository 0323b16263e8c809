#!/usr/bin/env bash
# lathe train in several processes on GPUs: two that share one GPU, through MPI; one on each GPU, through NCCL, where
# there are several; a process that is killed. The same losses as one process, at every level of sharding.
set -euo pipefail
if [ -n "${LATHE_EMULATED_DRIVER:-}" ]; then
    export LD_LIBRARY_PATH=$LATHE_EMULATED_DRIVER:$LD_LIBRARY_PATH EMULATOR_GPUS=1
fi
# shellcheck source=tests/gpu/gpu_common.sh
source "$(dirname "$0")/gpu_common.sh"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0 # MPI has its own

steps=20
levels=(none optimizer gradients parameters)
brief='' # emulated GPUs are slow
if [ -n "${LATHE_EMULATED:-}" ]; then
    steps=2
    [ -n "${LATHE_LONG_TESTS:-}" ] || brief=yes levels=(parameters)
fi
settings=(--model model --data data.h5 --max-steps "$steps" --learning-rate 3e-3 --packing off --global-batch-size 8
    --dtype float32 --matmul native --logging-steps 1 --eval-samples 0 --resume never)

train() { # OUTPUT ARGUMENTS...
    local output=$1
    shift
    "$LATHE" train "${settings[@]}" --output "$output" "$@" >"$output.log" 2>&1 || fail "$output: $(tail -n 5 "$output.log")"
}

# Through the backend NAME, for each level: within what another order of summing does.
compare() { # NAME GPUS LEVEL...
    local name=$1 gpus=$2 level
    shift 2
    for level in "$@"; do
        train "$name-$level" --gpus "$gpus" --shard "$level" --micro-batch-size 2
        grep -r -- "$name" "$name-$level.log" >/dev/null || fail "$name is not named: $(cat "$name-$level.log")"
        same_curve "$name, $level" one "$name-$level" loss 1e-5
    done
}

train one --device cuda --micro-batch-size 4

echo "--- two processes on one GPU, through MPI"
if command -v mpirun >/dev/null; then
    compare mpi 0,0 "${levels[@]}"
else
    echo "skipped: mpirun is not installed"
fi

echo "--- a process on each GPU, through NCCL"
[ -z "${LATHE_EMULATED:-}" ] || export EMULATOR_GPUS=2
gpus=$("$LATHE" devices | grep -cE '^ *cuda:[0-9]+' || true)
if [ "$gpus" -lt 2 ]; then
    echo "skipped: this machine has one GPU"
    echo "all well"
    exit 0
fi
if ! "$LATHE" devices | grep '^ *nccl .*libnccl' >/dev/null; then
    echo "skipped: NCCL is not found"
    echo "all well"
    exit 0
fi
compare nccl 0,1 "${levels[@]}"
if [ "$gpus" -gt 2 ] && [ $((8 % gpus)) = 0 ]; then
    train all --gpus "$gpus" --shard parameters --micro-batch-size 1
    same_curve "nccl, all $gpus GPUs" one all loss 1e-5
fi

echo "--- mpirun starts them, and brings the id of NCCL"
if command -v mpirun >/dev/null; then
    flags=(--oversubscribe --bind-to none)
    mpirun --version | grep open-mpi.org >/dev/null || flags=(-bind-to none)
    mpirun "${flags[@]}" -n 2 "$LATHE" train "${settings[@]}" --output mpirun --device cuda --shard optimizer \
        --micro-batch-size 2 >mpirun.log 2>&1 || fail "mpirun: $(tail -n 5 mpirun.log)"
    grep nccl mpirun.log >/dev/null || fail "not through NCCL: $(cat mpirun.log)"
    same_curve "nccl, by mpirun" one mpirun loss 1e-5
else
    echo "skipped: mpirun is not installed"
fi

echo "--- torchrun starts them, and listens on MASTER_PORT itself"
if command -v torchrun >/dev/null; then
    LATHE=$LATHE "$LATHE_SOURCE_DIR/scripts/launch/one_host.sh" torchrun 2 "${settings[@]}" --output torchrun --device cuda \
        --shard optimizer --micro-batch-size 2 >torchrun.log 2>&1 || fail "torchrun: $(tail -n 5 torchrun.log)"
    grep nccl torchrun.log >/dev/null || fail "not through NCCL: $(cat torchrun.log)"
    same_curve "nccl, by torchrun" one torchrun loss 1e-5
else
    echo "skipped: torchrun is not installed"
fi

if [ -z "$brief" ]; then
    echo "--- the same bits again"
    train again --gpus 0,1 --shard gradients --micro-batch-size 2
    cmp nccl-gradients/final/model.safetensors again/final/model.safetensors || fail "two runs gave different bits"
fi

echo "--- one of two is killed: all end, and soon"
"$LATHE" train "${settings[@]}" --output killed --gpus 0,1 --micro-batch-size 2 --max-steps 100000 >killed.log 2>&1 &
pid=$!
wait_for killed.log 'step' 3
victim=$(pgrep -P $pid | tail -n 1)
kill -9 "$victim"
start=$SECONDS code=0
wait $pid || code=$?
[ $code != 0 ] || fail "the run ends well without one of its processes"
[ $((SECONDS - start)) -le 12 ] || fail "the run ends after $((SECONDS - start)) s"
grep -E "is gone|signal 9|killed" killed.log >/dev/null || fail "the cause is not told: $(tail -n 5 killed.log)"
echo "all well"
