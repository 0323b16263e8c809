#!/usr/bin/env bash
# Two hosts on one machine: two network namespaces, joined by a cable (a veth pair), in which processes see nothing of
# each other but the network. Shows what only two hosts can show: that names, addresses and interfaces are right, and
# what happens when the cable is pulled.
#
#   tests/net/two_hosts.sh            with LATHE (the program) and RENDEZVOUS (the program tests/test_rendezvous)
#
# Needs root and ip (iproute2). Exit code: 0 all well, 1 something failed, 77 skipped, and why.
set -euo pipefail

fail() {
    echo "FAILED: $*" >&2
    exit 1
}
skip() {
    echo "skipped: $*"
    exit 77
}

# --- The two hosts --------------------------------------------------------------------------------
#
# Their addresses exist in the namespaces alone, so they are the same in every run: 10.213.0.1 and .2, and fd00:213::1
# and ::2. "${on_host0[@]}" COMMAND... runs one there, in the process that bash makes for it; pull_cable and plug_cable.

hosts=("lathe_a_$$" "lathe_b_$$") # names of the namespaces
cable=("veth_a" "veth_b")
address=(10.213.0.1 10.213.0.2)
address6=(fd00:213::1 fd00:213::2)
started=() # processes to end

make_hosts() {
    local i
    [ "$(id -u)" = 0 ] || skip "network namespaces need root"
    command -v ip >/dev/null || skip "ip is not installed (package iproute2)"
    for i in 0 1; do
        ip netns add "${hosts[$i]}" 2>"$work/ip" || skip "no network namespaces here: $(cat "$work/ip")"
    done
    ip -n "${hosts[0]}" link add "${cable[0]}" type veth peer name "${cable[1]}" netns "${hosts[1]}" 2>"$work/ip" ||
        skip "no veth pairs here: $(cat "$work/ip")"
    for i in 0 1; do
        ip -n "${hosts[$i]}" link set lo up
        ip -n "${hosts[$i]}" address add "${address[$i]}/24" dev "${cable[$i]}"
        ip -n "${hosts[$i]}" address add "${address6[$i]}/64" dev "${cable[$i]}" nodad 2>/dev/null || true # no IPv6 here
        ip -n "${hosts[$i]}" link set "${cable[$i]}" up
    done
}

# Each has a name of its own, too.
# shellcheck disable=SC2034 # rank uses them by reference
on_host0=(ip netns exec "${hosts[0]}" unshare --uts -- bash -c 'hostname node0 && exec "$@"' -)
# shellcheck disable=SC2034
on_host1=(ip netns exec "${hosts[1]}" unshare --uts -- bash -c 'hostname node1 && exec "$@"' -)

pull_cable() { ip -n "${hosts[1]}" link set "${cable[1]}" down; }
plug_cable() { ip -n "${hosts[1]}" link set "${cable[1]}" up; }

remove_hosts() {
    local pid host
    for pid in "${started[@]}"; do
        kill -9 "$pid" 2>/dev/null || true
    done
    for host in "${hosts[@]}"; do
        for pid in $(ip netns pids "$host" 2>/dev/null); do
            kill -9 "$pid" 2>/dev/null || true
        done
        ip netns delete "$host" 2>/dev/null || true
    done
    rm -rf "$work"
}

work=$(mktemp -d)
trap remove_hosts EXIT
make_hosts

# --- The rendezvous between them ------------------------------------------------------------------

# One rank in the background, on the host of its number: its output to $work/rank0 or 1, its process to $started.
rank() { # 0|1 ADDRESS IDENTITY DEADLINE SECONDS
    local -n on_host=on_host$1
    "${on_host[@]}" "$RENDEZVOUS" "$1" 2 "$2" $port "$3" "$4" "$5" >"$work/rank$1" 2>&1 &
    started+=($!)
}
# Until the output has the words; so many seconds at most.
says() { # 0|1 SECONDS WORDS
    local end=$((SECONDS + 1 + $2))
    until grep -q -- "$3" "$work/rank$1"; do
        [ $SECONDS -lt $end ] || fail "rank $1 does not say '$3' in $2 s, but: $(cat "$work/rank$1")"
        sleep 0.05
    done
}

both_join() { # ADDRESS SECONDS
    port=$((port + 1))
    rank 0 "$1" "seed: 1" 20 "$2"
    rank 1 "$1" "seed: 1" 20 "$2"
    says 0 10 "joined the id of rank 0"
    says 1 10 "joined the id of rank 0"
}

check_rendezvous() {
    port=29500
    echo "--- the id arrives, over IPv4 and IPv6"
    both_join "${address[0]}" 0
    says 0 5 left
    says 1 5 left
    if ip -n "${hosts[1]}" -6 address show dev "${cable[1]}" | grep "${address6[1]}" >/dev/null; then
        both_join "${address6[0]}" 0
        says 1 5 left
    fi

    echo "--- other settings are refused, with both values"
    port=$((port + 1))
    rank 0 "${address[0]}" "seed: 1" 20 0
    rank 1 "${address[0]}" "seed: 2" 20 0
    says 0 10 "refused rank 1 (node1) has seed: 2, rank 0 (node0) has seed: 1"
    says 1 10 "refused rank 1 (node1) has seed: 2, rank 0 (node0) has seed: 1"

    echo "--- rank 0 is not there"
    port=$((port + 1))
    rank 1 "${address[0]}" "seed: 1" 1 0
    says 1 10 "rank 0 is not reachable at ${address[0]} port $port"

    echo "--- a process that dies is noticed at once"
    both_join "${address[0]}" 60
    kill -9 "${started[-1]}" # rank 1
    wait "${started[-1]}" 2>/dev/null || true
    says 0 2 "lost rank 1 (node1) is gone"

    echo "--- the cable is plugged in while rank 1 is waiting"
    pull_cable
    port=$((port + 1))
    rank 0 "${address[0]}" "seed: 1" 20 0
    rank 1 "${address[0]}" "seed: 1" 20 0
    sleep 1
    plug_cable
    says 1 10 "joined the id of rank 0"
    says 0 10 left

    if [ -n "${LATHE_LONG_TESTS:-}" ]; then
        echo "--- the cable is pulled: both notice within 10 s"
        both_join "${address[0]}" 60
        pull_cable
        says 0 10 "lost rank 1 (node1) is gone"
        says 1 10 "lost rank 0 (node0) is gone"
    fi
}

if [ -n "${RENDEZVOUS:-}" ]; then
    check_rendezvous
else
    echo "skipped: the rendezvous (RENDEZVOUS is not set)"
fi

# --- Training between them ------------------------------------------------------------------------

# In place of ssh, which Open MPI calls as: ssh -x HOST COMMAND...
write_agent() {
    cat >agent <<END
#!/usr/bin/env bash
while [[ \$1 == -* ]]; do shift; done
shift
exec ip netns exec ${hosts[1]} unshare --uts -- bash -c 'hostname node1 && exec bash -c "\$1"' - "\$*"
END
    chmod +x agent
}

# Until no process of either host has such a command line.
wait_until_none() { # SECONDS WORDS
    local end=$((SECONDS + 1 + $1)) host pids
    while [ $SECONDS -lt $end ]; do
        pids=$(for host in "${hosts[@]}"; do ip netns pids "$host"; done)
        [ -n "$pids" ] && ps -ww -o args= -p "${pids//$'\n'/,}" | grep -e "^[^ ]*$2" >/dev/null || return 0
        sleep 0.2
    done
    fail "still there after $1 s: $(ps -o pid,args -p "${pids//$'\n'/,}")"
}

# A subshell: train_common.sh has a directory of its own, which it removes.
check_training() (
    source "$1/../cli/train_common.sh"
    make_data
    write_agent
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    export ASAN_OPTIONS="detect_leaks=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}" # MPI's own
    export HOSTS="${address[0]}:2 ${address[1]}:2" NETWORK=10.213.0.0/24 MPIRUN_FLAGS="--mca plm_rsh_agent $PWD/agent"
    local options=(--model model --data data.h5 --max-steps 8 --learning-rate 1e-2 --packing off --micro-batch-size 2
        --save-steps 4 --eval-samples 0 --threads 1 --watchdog-timeout 5)
    local over_network=("${on_host0[@]}" "$1/../../scripts/launch/two_hosts.sh")

    echo "--- two processes on each host train as four on one do"
    "$LATHE" train "${options[@]}" --output one --processes 4 >one.log 2>&1 || fail "on one host: $(tail -5 one.log)"
    "${over_network[@]}" "${options[@]}" --output two >two.log 2>&1 </dev/null ||
        fail "on two hosts: $(tail -5 two.log)"
    grep 'rank 3 of 4 on node1' two/logs/rank-3.log >/dev/null || fail "rank 3: $(sed -n 1p two/logs/rank-3.log)"
    cmp one/final/model.safetensors two/final/model.safetensors || fail "two hosts train something else than one"
    cmp one/checkpoint-8/optimizer.safetensors two/checkpoint-8/optimizer.safetensors || fail "the optimizer differs"

    [ -n "${LATHE_LONG_TESTS:-}" ] || return 0
    echo "--- the cable is pulled: all that train end, and the same command goes on when it is back"
    "${over_network[@]}" "${options[@]}" --max-steps 1000 --output cut >cut.log 2>&1 </dev/null &
    pid=$!
    wait_for cut.log '^saved' 1
    pull_cable
    wait_until_none 20 '/lathe '
    grep 'no progress for 5 s' cut.log >/dev/null || fail "the watchdog says nothing: $(tail -5 cut.log)"
    # Open MPI's daemons wait for each other's last words for as long as TCP does, minutes
    pkill -9 -P $pid mpirun
    wait $pid 2>/dev/null || true
    plug_cable
    wait_until_none 20 ''
    "${over_network[@]}" "${options[@]}" --max-steps 1000 --output cut >cut.log 2>&1 </dev/null ||
        fail "going on: $(tail -5 cut.log)"
)

if [ -z "${LATHE:-}" ]; then
    echo "skipped: training (LATHE is not set)"
elif ! command -v mpirun >/dev/null || ! mpirun --version | grep 'Open MPI' >/dev/null; then
    echo "skipped: training (no mpirun of Open MPI)"
else
    check_training "$(cd "$(dirname "$0")" && pwd)"
fi

echo "all well"
