#!/usr/bin/env bash
# From a fresh machine to a tuned model that answers, in one command: installs what is missing, builds, trains a tokenizer,
# prepares a dataset, makes a small GPT-2 model, trains it, and compares its answers to held-out questions before and
# after. Takes a few minutes on two cores and needs no GPU.
#
#   scripts/quickstart.sh                       the bundled sample (scripts/sample_data/assistant.jsonl)
#   scripts/quickstart.sh --data FILE.jsonl     your own instruction data (Dolly, Alpaca, messages, ... records)
#   scripts/quickstart.sh --output DIR          where everything goes (default: build/quickstart)
#   scripts/quickstart.sh --steps N             how long to train
#   scripts/quickstart.sh --fresh               forget an earlier run; without it a second run goes on where it stopped
set -euo pipefail
cd "$(dirname "$0")/.."

sample=scripts/sample_data/assistant.jsonl
data=$sample
output=build/quickstart
steps=
while [ $# -gt 0 ]; do
    case $1 in
    --data | --output | --steps)
        [ $# -ge 2 ] || { echo "quickstart: $1 needs a value" >&2; exit 2; }
        case $1 in --data) data=$2 ;; --output) output=$2 ;; --steps) steps=$2 ;; esac
        shift
        ;;
    --fresh) fresh=1 ;;
    --help | -h)
        sed -n '2,11s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    *)
        echo "quickstart: unknown option $1 (see --help)" >&2
        exit 2
        ;;
    esac
    shift
done
[ -r "$data" ] || { echo "quickstart: can not read $data" >&2; exit 1; }
if [ -n "${fresh:-}" ]; then rm -rf "$output"; fi

say() { printf '\n== %s\n' "$1"; }

say "Building"
scripts/setup.sh
cmake -S . -B build/release -DCMAKE_BUILD_TYPE=Release >build-quickstart.log 2>&1 ||
    { cat build-quickstart.log >&2; exit 1; }
sed -nE 's/^-- ((CUDA|NCCL|MPI): .*)/\1/p' build-quickstart.log
rm -f build-quickstart.log
cmake --build build/release --target lathe_cli --parallel "$(nproc)" | tail -n 1
lathe=build/release/lathe
mkdir -p "$output"

# The sample is small and regular, so a small vocabulary, model and rows do; real data gets more of each.
if [ "$data" = "$sample" ]; then
    vocab_size=1500 max_length=256 hidden_size=128 layers=4 heads=4 spread=0.08
    steps=${steps:-1500} learning_rate=3e-3
else
    vocab_size=8000 max_length=512 hidden_size=256 layers=6 heads=8 spread=0.06
    steps=${steps:-400} learning_rate=1e-3
fi

say "Tokenizer: $vocab_size tokens learned from $data"
[ -d "$output/tokenizer" ] ||
    "$lathe" tokenizer train --input "$data" --vocab-size "$vocab_size" --output "$output/tokenizer"

say "Dataset: records to tokens, with the loss on the answers only and 300 records held out"
[ -f "$output/data.h5" ] ||
    "$lathe" prepare --input "$data" --tokenizer "$output/tokenizer" --output "$output/data.h5" \
        --max-length "$max_length" --validation 300 --seed 1
"$lathe" inspect "$output/data.h5" --samples 1

say "Model: GPT-2 family, fresh weights"
[ -d "$output/base" ] ||
    "$lathe" init --family gpt2 --layers "$layers" --hidden-size "$hidden_size" --heads "$heads" \
        --max-position "$max_length" --initializer-range "$spread" \
        --tokenizer "$output/tokenizer" --output "$output/base" --seed 1

say "Training: $steps steps (Ctrl-C saves a checkpoint; run this script again to go on)"
if [ ! -d "$output/run/final" ]; then
    "$lathe" train --model "$output/base" --data "$output/data.h5" --output "$output/run" --resume auto \
        --max-steps "$steps" --micro-batch-size 8 --max-length "$max_length" --packing on \
        --learning-rate "$learning_rate" --warmup-steps 50 --weight-decay 0.1 --adam-beta2 0.95 \
        --logging-steps 50 --eval-steps 250 --save-steps 500 --save-total-limit 2 --seed 1
fi

say "Held-out questions, answered by the fresh and by the trained model"
answer() { # MODEL NAME: answers the held-out records, keeps the answers, prints the share that is exactly right
    local scores="$output/answers-$2.txt"
    "$lathe" generate --model "$1" --data "$output/data.h5" --max-new-tokens 48 --greedy --json \
        >"$output/answers-$2.jsonl" 2>"$scores" || { cat "$scores" >&2; return 1; }
    printf '%-7s %s\n' "$2" "$(grep -m1 'exact match' "$scores")"
}
answer "$output/base" before
answer "$output/run/final" after
sed -n '/exact match/,$p' "$output/answers-after.txt" | sed 1d

say "Three instructions"
ask() {
    printf '> %s\n' "$@"
    if [ $# -gt 1 ]; then
        "$lathe" generate --model "$output/run/final" --instruction "$1" --context "$2" --max-new-tokens 64 --greedy --quiet
    else
        "$lathe" generate --model "$output/run/final" --instruction "$1" --max-new-tokens 64 --greedy --quiet
    fi
    printf '\n'
}
if [ "$data" = "$sample" ]; then
    ask "What is the capital of Norway?"
    ask "Is a heron a fruit or a bird?"
    ask "What does Mara do for a living?" "Mara lives in Ghent. Mara has a parrot at home. By trade Mara is a potter."
else
    "$lathe" generate --model "$output/run/final" --data "$output/data.h5" --limit 3 --max-new-tokens 64 --greedy --quiet
    printf '%s\n' "A model of this size, made from nothing in minutes, learns the form of free text and little of its content." \
        "To tune a trained one, give its Hugging Face directory: $lathe train --model DIR ..."
fi

say "Made in $output"
cat <<END
tokenizer/           a byte-level BPE that Hugging Face loads too
data.h5              the tokenised dataset
base/, run/final/    the model before and after: Hugging Face directories
run/best/            the model with the lowest held-out loss
run/report.html      loss and learning-rate curves, samples, settings: open it in a browser
run/log.jsonl        the same in numbers; TensorBoard events are beside it
answers-after.jsonl  every held-out question with the reference and the answer

Try next:
  $lathe generate --model $output/run/final --instruction "Name the capital of Peru."
  $lathe score --model $output/run/final --text "The capital of Peru is Lima." --top 3
  $lathe inspect $output/run/final
  scripts/quickstart.sh --data your.jsonl --output build/mine
END
