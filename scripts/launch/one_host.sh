#!/usr/bin/env bash
# Trains on all GPUs of this machine, or on its CPU in several processes:
#
#   scripts/launch/one_host.sh gpus 8          --model gpt2 --data dolly.h5 --output out
#   scripts/launch/one_host.sh gpus 0,2,3      --model gpt2 --data dolly.h5 --output out
#   scripts/launch/one_host.sh processes 2     --model gpt2 --data dolly.h5 --output out
#   scripts/launch/one_host.sh mpirun 2        --model gpt2 --data dolly.h5 --output out
#   scripts/launch/one_host.sh torchrun 8      --model gpt2 --data dolly.h5 --output out
#
# The words after the second are those of lathe train. The same command goes on where an earlier one ended. LATHE names
# the program.
set -euo pipefail
LATHE=${LATHE:-lathe}

usage() {
    sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
    exit 2
}
[ $# -ge 2 ] || usage
way=$1 count=$2
shift 2

case "$way" in
    # lathe starts a process for each GPU, watches them, and starts them again when one fails.
    gpus) exec "$LATHE" train --gpus "$count" --max-restarts 3 "$@" ;;

    # The same on the CPU; it calls mpirun itself.
    processes) exec "$LATHE" train --processes "$count" --max-restarts 3 "$@" ;;

    # By mpirun itself: on the CPU, or with --device cuda on as many GPUs. These are Open MPI's flags: more processes
    # than cores may be started, none is bound to one core (a process has several threads), and root may do it.
    mpirun)
        flags=(--oversubscribe --bind-to none)
        [ "$(id -u)" != 0 ] || flags+=(--allow-run-as-root)
        mpirun --version | grep open-mpi.org >/dev/null || flags=() # MPICH binds none and asks nothing
        exec mpirun "${flags[@]}" -n "$count" "$LATHE" train "$@"
        ;;

    # By PyTorch's launcher, where it is what a cluster has: it sets RANK, WORLD_SIZE and so on, of which lathe needs no
    # more. GPUs only.
    torchrun) exec torchrun --standalone --no-python --nproc-per-node "$count" --max-restarts 3 "$LATHE" train "$@" ;;

    *) usage ;;
esac
