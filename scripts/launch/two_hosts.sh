#!/usr/bin/env bash
# Trains on two hosts, or more, by Open MPI's mpirun, started on one of them:
#
#   HOSTS="node1:8 node2:8" NETWORK=10.0.0.0/24 scripts/launch/two_hosts.sh \
#       --device cuda --model /shared/gpt2 --data /shared/dolly.h5 --output /shared/out
#
# HOSTS are names or addresses, each with its number of processes: one for each GPU, or on the CPU as many as there are
# to be. NETWORK is the one that joins them (not needed where they have only one). What it takes:
#
#   - ssh from this host to the others without a password (ssh-copy-id), and no prompt about unknown keys.
#   - Every host reaches every other one on any TCP port (no firewall between them).
#   - The same lathe and Open MPI at the same path on all of them. LATHE is that path.
#   - --model, --data and --output in a directory that all of them see (NFS, Lustre). lathe compares settings, model
#     and data at the start and refuses to train when they differ.
#
# MPIRUN_FLAGS are further flags of mpirun. SIGUSR1 to mpirun, which this becomes, makes all save a checkpoint and leave;
# on SIGTERM it gives them a second. The same command goes on where an earlier one ended, on any number of hosts.
set -euo pipefail
: "${HOSTS:?the hosts, as in HOSTS=\"node1:8 node2:8\"}"
LATHE=${LATHE:-$(command -v lathe || echo lathe)}

hosts='' processes=0
for host in $HOSTS; do
    case "$host" in *:*) ;; *) host=$host:1 ;; esac
    hosts+=${hosts:+,}$host
    processes=$((processes + ${host##*:}))
done

flags=(--host "$hosts" -n "$processes" --bind-to none)
[ "$(id -u)" != 0 ] || flags+=(--allow-run-as-root)
# Open MPI would else try every network of a host, those of containers and virtual machines too.
[ -z "${NETWORK:-}" ] || flags+=(--mca oob_tcp_if_include "$NETWORK" --mca btl_tcp_if_include "$NETWORK")
# mpirun passes on only what it is told to. NCCL, by which GPUs talk, may need to know the interface too
# (NCCL_SOCKET_IFNAME).
for variable in MASTER_ADDR MASTER_PORT OMP_NUM_THREADS NCCL_SOCKET_IFNAME NCCL_IB_HCA NCCL_DEBUG; do
    [ -z "${!variable:-}" ] || flags+=(-x "$variable")
done
# shellcheck disable=SC2206 # words to be split
[ -z "${MPIRUN_FLAGS:-}" ] || flags+=($MPIRUN_FLAGS)

exec mpirun "${flags[@]}" "$LATHE" train "$@"
