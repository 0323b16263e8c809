# Shared by tests that end at the first failure: a directory of their own, a tiny model and dataset in it, and how to say
# what failed.
: "${LATHE:?the program to test}" "${LATHE_SOURCE_DIR:?the source tree}"
export OMP_NUM_THREADS=1

# in memory where possible: saving waits for the disk, many times
if [ -w /dev/shm ]; then work=$(mktemp -d /dev/shm/lathe-test-XXXXXX); else work=$(mktemp -d); fi
trap 'cleanup' EXIT
cleanup() { rm -rf "$work"; }
cd "$work"

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

equal() { [ "$1" = "$2" ] || fail "$3: '$1' is not '$2'"; }
contains() { case $1 in *"$2"*) ;; *) fail "'$1' does not contain '$2'" ;; esac; }
# field NAME: its value in a line of JSON
field() { sed -n "s/.*\"$1\":\(\"[^\"]*\"\|\[[^]]*\]\|[a-z0-9]*\).*/\1/p"; }

make_data() {
    local words=(amber birch cedar dune ember) i
    for i in $(seq 0 119); do
        printf '{"instruction": "What is next to %s, please?", "context": "%s", "response": "%s", "category": "%s"}\n' \
            "${words[i % 5]}" "$([ $((i % 3)) = 0 ] && echo "In a row.")" "${words[(i + 1) % 5]}" \
            "$([ $((i % 3)) = 0 ] && echo closed_qa || echo open_qa)"
    done >data.jsonl
    "$LATHE" prepare --input data.jsonl --tokenizer "$LATHE_SOURCE_DIR/tests/golden/dolly" --output data.h5 \
        --validation 0.1 >prepare.log || fail "prepare"
    "$LATHE" init --family gpt2 --layers 2 --hidden-size 32 --heads 2 --max-position 160 \
        --tokenizer "$LATHE_SOURCE_DIR/tests/golden/dolly" --output model >init.log || fail "init"
}

# Until the run in the background ($pid) has printed PATTERN so many times.
wait_for() { # LOG PATTERN COUNT
    local i
    for i in $(seq 1000); do
        [ "$(grep -c "$2" "$1")" -ge "$3" ] && return
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.02
    done
    fail "'$2' was not printed $3 times: $(tail -5 "$1")"
}
