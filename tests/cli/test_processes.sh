#!/usr/bin/env bash
# One model trained by several processes: the same losses and weights for any number of them, any method and any level
# of sharding; a run goes on with another number; processes that disagree are told so, once.
set -euo pipefail
source "$(dirname "$0")/train_common.sh"
source "$LATHE_SOURCE_DIR/tests/cli/processes_common.sh"

# 61 rows to train on: with a global batch of 12 an epoch's sixth step has one row, and all processes but one have none.
make_rows() {
    local words=(amber birch cedar dune ember) i
    for i in $(seq 0 70); do
        printf '{"instruction": "What is next to %s, please?%s", "context": "", "response": "%s %s", "category": "qa"}\n' \
            "${words[i % 5]}" "$([ $((i % 4)) = 0 ] && echo " Say it in more words.")" "${words[(i + 1) % 5]}" \
            "$([ $((i % 3)) = 0 ] && echo "and nothing else")"
    done >data.jsonl
    "$LATHE" prepare --input data.jsonl --tokenizer "$LATHE_SOURCE_DIR/tests/golden/dolly" --output data.h5 \
        --template alpaca --validation 0.14 >prepare.log || fail "prepare"
    "$LATHE" init --family gpt2 --layers 2 --hidden-size 32 --heads 2 --max-position 160 \
        --tokenizer "$LATHE_SOURCE_DIR/tests/golden/dolly" --output model >init.log || fail "init"
}

# --micro-batch-size of N processes, for a global batch of 12; the fourth has steps of one micro-batch.
rows_of() { case $1 in 4) echo 3 ;; *) echo 2 ;; esac; }

settings=(--model model --data data.h5 --max-steps 8 --global-batch-size 12 --learning-rate 1e-3 --logging-steps 1
    --eval-steps 4 --eval-samples 1 --save-steps 100 --packing off --threads 1)

train() { # PROCESSES OUTPUT OPTIONS...
    local n=$1 output=$2
    shift 2
    together "$n" "$LATHE" train "${settings[@]}" --micro-batch-size "$(rows_of "$n")" --output "$output" "$@" \
        >"$output.log" 2>&1 || fail "$n processes, $*: $(cat "$output.log")"
}

losses() { # OUTPUT: "step" or "eval", which, the loss, and the tokens that it is the mean of
    sed -n -e 's/.*"event":"step","step":\([0-9]*\).*"loss":\([^,]*\).*"trained_tokens":\([0-9]*\).*/step \1 \2 \3/p' \
        -e 's/.*"event":"eval","step":\([0-9]*\).*"eval_loss":\([^,]*\).*"eval_tokens":\([0-9]*\).*/eval \1 \2 \3/p' \
        "$1/log.jsonl"
}

numbers() { # SAFETENSORS: its numbers, one a line
    local header
    header=$(od -An -v -t u8 -N 8 "$1")
    od -An -v -t f4 -w4 -j $((8 + header)) "$1"
}

weights_of() { # OUTPUT
    if [ -e "$1/final/adapter_model.safetensors" ]; then
        echo "$1/final/adapter_model.safetensors"
    else
        echo "$1/final/model.safetensors"
    fi
}

same_losses() { # OUTPUT OUTPUT
    paste -d ' ' <(losses "$1") <(losses "$2") | awk '
        { lines++; d = $3 - $7; if (d < 0) d = -d }
        $1 != $5 || $2 != $6 || $4 != $8 || d > 1e-5 * $3 { print; bad = 1 }
        END { exit bad || lines < 10 }' || fail "$1 and $2 have different losses"
}

same_weights() { # OUTPUT OUTPUT: within 1e-5 of the norm
    paste -d ' ' <(numbers "$(weights_of "$1")") <(numbers "$(weights_of "$2")") | awk '
        { difference += ($1 - $2) ^ 2; norm += $1 ^ 2 }
        END { if (!(norm > 0) || difference > 1e-10 * norm) { print "apart by", sqrt(difference / norm); exit 1 } }' ||
        fail "$1 and $2 have different weights"
}

compare() { # PROCESSES OUTPUT REFERENCE OPTIONS...
    local n=$1 output=$2 reference=$3
    shift 3
    train "$n" "$output" "$@"
    same_losses "$reference" "$output"
    same_weights "$reference" "$output"
}

make_rows

echo "--- full tuning, any number and level"
train 1 full-1
[ "$(losses full-1 | grep -c '^eval')" -ge 2 ] || fail "no held-out loss: $(cat full-1.log)"
cases=(2-none 2-parameters 3-optimizer 3-gradients 4-optimizer 4-parameters)
[ -z "${LATHE_LONG_TESTS:-}" ] || cases=({2,3,4}-{none,optimizer,gradients,parameters})
for case in "${cases[@]}"; do
    compare "${case%-*}" "full-$case" full-1 --shard "${case#*-}"
done

echo "--- adapters"
cases=(2-lora-none 4-lora-parameters 3-prefix-parameters 2-prompt-none)
[ -z "${LATHE_LONG_TESTS:-}" ] || cases=({2,3,4}-{lora,prefix,prompt}-{none,parameters})
for method in lora prefix prompt; do
    train 1 "$method-1" --method "$method"
done
for case in "${cases[@]}"; do
    IFS=- read -r n method level <<<"$case"
    compare "$n" "$case" "$method-1" --method "$method" --shard "$level"
done

echo "--- dropout masks belong to a micro-batch, whoever computes it"
train 1 dropout-1 --method lora --lora-dropout 0.3
compare 3 dropout-3 dropout-1 --method lora --lora-dropout 0.3
cmp -s lora-1/final/adapter_model.safetensors dropout-1/final/adapter_model.safetensors && fail "no dropout"

echo "--- the very same bits where nothing is summed in another order"
for level in none optimizer; do
    train 2 "bits-$level" --shard "$level" --max-grad-norm 1e6
done
cmp bits-none/final/model.safetensors bits-optimizer/final/model.safetensors || fail "none and optimizer differ"

echo "--- only rank 0 tells, and every rank has a log"
grep '^step' full-4-optimizer.log | sort | uniq -d | grep . && fail "a step was printed twice"
[ "$(grep -c '^step ' full-4-optimizer.log)" = 8 ] || fail "not every step was printed: $(cat full-4-optimizer.log)"
for rank in 0 1 2 3; do
    [ "$(grep -c 'Z step [0-9]' "full-4-optimizer/logs/rank-$rank.log")" = 8 ] || fail "rank $rank logged no steps"
    grep "rank $rank of 4" "full-4-optimizer/logs/rank-$rank.log" >/dev/null || fail "rank $rank did not say who it is"
done

echo "--- going on with another number of processes"
train 4 moved --max-steps 8 --save-steps 2 --save-total-limit 0
for step in 4 6 8; do rm -rf "moved/checkpoint-$step"; done
rm -rf moved/final moved/best
train 2 moved --save-steps 3 --save-total-limit 0 --shard gradients
grep "not to the very same bits" moved.log >/dev/null || fail "a change of processes was not told"
grep "step 2$" moved.log >/dev/null || fail "not resumed from step 2: $(cat moved.log)"
rm -rf moved/checkpoint-8 moved/final moved/best
train 3 moved --shard parameters
same_losses full-1 moved
same_weights full-1 moved

echo "--- a signal to one of them stops all"
together 2 "$LATHE" train "${settings[@]}" --micro-batch-size 2 --output stopped --max-steps 100000 --save-steps 0 \
    --eval-steps 100000 >stopped.log 2>&1 &
pid=$!
wait_for stopped.log '^step ' 3
kill -USR1 "$(sed -n 's/.*rank 1 of 2 .*process \([0-9]*\):.*/\1/p' stopped/logs/rank-1.log)"
status=0
wait "$pid" || status=$?
[ "$status" = 130 ] || fail "a signal to rank 1 ended with $status: $(tail -5 stopped.log)"
grep "the same command goes on from here" stopped.log >/dev/null || fail "not stopped: $(tail -5 stopped.log)"
ls stopped/checkpoint-*/manifest.json >/dev/null || fail "no checkpoint when stopped"

# Each of two ranks in a directory of its own, as on two hosts; the second with more options.
mkdir here-0 here-1
ln -s ../model here-0/model
ln -s ../model here-1/model
cp data.h5 here-0/data.h5
cat >apart.sh <<'SCRIPT'
rank=${OMPI_COMM_WORLD_RANK:-$PMI_RANK}
cd "here-$rank"
if [ "$rank" = 1 ]; then set -- "$@" $SECOND_ONLY; fi
exec "$@"
SCRIPT

expect_failure() { # PATTERN OPTIONS...
    local pattern=$1 status=0
    shift
    timeout 60 mpirun "${mpi_flags[@]}" -n 2 sh apart.sh "$LATHE" train "${settings[@]}" --micro-batch-size 2 \
        --output ../refused "$@" >refused.log 2>&1 || status=$?
    case $status in 1 | 2) ;; *) fail "exit $status, not 1 or 2: $(cat refused.log)" ;; esac
    grep -e "$pattern" refused.log >/dev/null || fail "'$pattern' is not in: $(cat refused.log)"
    [ "$(grep -c '^lathe: error' refused.log)" = 1 ] || fail "not one message: $(cat refused.log)"
    [ ! -e refused ] || fail "something was written"
}

echo "--- processes that disagree"
SECOND_ONLY="" expect_failure 'rank 1.*data\.h5'
"$LATHE" prepare --input data.jsonl --tokenizer "$LATHE_SOURCE_DIR/tests/golden/dolly" --output here-1/data.h5 \
    --template alpaca --validation 0.2 >other.log || fail "prepare"
SECOND_ONLY="" expect_failure 'different data.*rank 0.*rank 1'
cp data.h5 here-1/data.h5
SECOND_ONLY="--learning-rate 2e-3" expect_failure 'learning-rate: 0\.002.*learning-rate: 0\.001'
SECOND_ONLY="" expect_failure 'not a multiple of --micro-batch-size 2 times 2 processes' --global-batch-size 15
echo "all is well"
