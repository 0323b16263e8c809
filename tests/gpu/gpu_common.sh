# shellcheck shell=bash
# Shared by the tests of the program on a GPU: skips where there is none, and makes a tiny model and dataset in a
# directory of their own. Sourced.
bash "$(dirname "${BASH_SOURCE[0]}")/on_gpu.sh" true || exit $?
# shellcheck source=tests/cli/train_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../cli/train_common.sh"
make_data

# Values of a member of the step lines of OUTPUT/log.jsonl: "STEP VALUE" each.
logged() { # OUTPUT MEMBER
    grep '"event":"step"' "$1/log.jsonl" | sed -nE "s/.*\"step\":([0-9]+).*\"$2\":([-0-9.eE+]+).*/\1 \2/p"
}

# Fails unless both runs logged the same steps, with values of the member apart by at most BOUND of themselves.
same_curve() { # WHAT RUN RUN MEMBER BOUND
    paste -d' ' <(logged "$2" "$4") <(logged "$3" "$4") >curves.txt
    [ -s curves.txt ] || fail "$1: no steps in $2/log.jsonl"
    awk -v bound="$5" -v what="$1" '
        $1 != $3 { print what ": other steps: " $0; exit 1 }
        { off = ($2 - $4) / ($2 > 0 ? $2 : 1); if (off < 0) off = -off; if (off > worst) worst = off
          if (!(off <= bound)) { print what ": step " $1 ": " $2 " and " $4; bad = 1 } }
        END { printf "%s: %d steps within %.2g (bound %.2g)\n", what, NR, worst, bound; exit bad }' curves.txt ||
        fail "$1"
}
