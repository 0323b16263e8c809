#!/usr/bin/env bash
# From a fresh machine to a tuned model that answers, in one command: installs what is missing, builds, trains a tokenizer,
# prepares a dataset, makes a small GPT-2 model, trains it, and compares its answers to held-out questions before and
# after. Then that model is taught a task it has never seen, by full tuning, LoRA, prefix and prompt tuning, side by
# side; evaluated; and exported to one file. Takes about four minutes on two cores and needs no GPU.
#
#   scripts/quickstart.sh                       the bundled sample (scripts/sample_data/assistant.jsonl)
#   scripts/quickstart.sh --data FILE.jsonl     your own instruction data (Dolly, Alpaca, messages, ... records), first act only
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
        sed -n '2,12s/^# \{0,1\}//p' "$0"
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

# One category of the sample is kept from the first act: the task of the second.
task=summarization
first=$data
if [ "$data" = "$sample" ]; then
    first=$output/first.jsonl
    grep -v "\"category\": \"$task\"" "$data" >"$first"
    grep "\"category\": \"$task\"" "$data" >"$output/$task.jsonl"
fi

say "Tokenizer: $vocab_size tokens learned from $data"
[ -d "$output/tokenizer" ] ||
    "$lathe" tokenizer train --input "$data" --vocab-size "$vocab_size" --output "$output/tokenizer"

say "Dataset: records to tokens, with the loss on the answers only and 300 records held out"
[ -f "$output/data.h5" ] ||
    "$lathe" prepare --input "$first" --tokenizer "$output/tokenizer" --output "$output/data.h5" \
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
answer() { # DATA NAME MODEL [--adapter DIR]: answers the held-out records, keeps the answers; the share that is exactly right
    local scores="$output/answers-$2.txt"
    "$lathe" generate --model "${@:3}" --data "$1" --max-new-tokens 48 --greedy --json \
        >"$output/answers-$2.jsonl" 2>"$scores" || { cat "$scores" >&2; return 1; }
    grep -m1 'exact match' "$scores"
}
printf 'before  %s\n' "$(answer "$output/data.h5" before "$output/base")"
printf 'after   %s\n' "$(answer "$output/data.h5" after "$output/run/final")"
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

if [ "$data" = "$sample" ]; then
    say "Second act: a task the model has never seen ($task), learned by four methods"
    [ -f "$output/$task.h5" ] ||
        "$lathe" prepare --input "$output/$task.jsonl" --tokenizer "$output/tokenizer" --output "$output/$task.h5" \
            --max-length 224 --validation 100 --seed 1 | sed -n '/records/,$p'
    model=$output/run/final
    row() { printf '%-8s %10s %8s %13s %15s  %s\n' "$@" | tee -a "$output/methods.txt"; }
    in_log() { sed -nE "s/$1/\\1/p" "$2" | head -n 1; } # PATTERN LOG: what the pattern's group is
    exact() { answer "$output/$task.h5" "$task-$1" "${@:2}" | sed 's/exact match //'; }
    tune() { # METHOD STEPS LEARNING_RATE [OPTION ...]: tunes the model of the first act
        [ -d "$output/$1/final" ] ||
            "$lathe" train --model "$model" --data "$output/$task.h5" --output "$output/$1" --resume auto --method "$1" \
                --max-steps "$2" --learning-rate "$3" --micro-batch-size 8 --max-length 224 --warmup-steps 10 --logging-steps 50 \
                --eval-steps 50 --eval-samples 0 --save-steps 500 --seed 1 "${@:4}" >"$output/$1.log" ||
            { cat "$output/$1.log" >&2; return 1; }
    }
    compare() { # METHOD WHO ...: its line in the table
        row "$1" "$(in_log '^parameters .*, (.*) of them trained.*' "$output/$1.log")" \
            "$(in_log '^done after [0-9]+ steps, ([0-9:]+);.*' "$output/$1.log")" \
            "$(in_log '.*peak memory ([0-9]+ MB).*' "$output/$1.log")" \
            "$(in_log '.*, held-out loss ([0-9.]+),.*' "$output/$1.log")" "$(exact "$@")"
    }
    : >"$output/methods.txt"
    row method trained time "peak memory" "held-out loss" "exact match"
    tune full 150 1e-3
    row none - - - "$(in_log '^held out, step 0: loss ([0-9.]+) .*' "$output/full.log")" "$(exact none "$model")"
    compare full "$output/full/final"
    tune lora 150 5e-3 --lora-r 8 --lora-alpha 16
    compare lora "$model" --adapter "$output/lora/final"
    tune prefix 300 1e-1 --num-virtual-tokens 20
    compare prefix "$model" --adapter "$output/prefix/final"
    tune prompt 300 2e-1 --num-virtual-tokens 20
    compare prompt "$model" --adapter "$output/prompt/final"

    say "One summary, by each method"
    question="Say in one sentence who Mara is." context="Mara lives in Ghent. Mara has a parrot at home. By trade Mara is a potter."
    printf '> %s\n> %s\n' "$question" "$context"
    for method in none full lora prefix prompt; do
        who=("$model" --adapter "$output/$method/final")
        case $method in none) who=("$model") ;; full) who=("$output/full/final") ;; esac
        printf '%-7s ' "$method"
        "$lathe" generate --model "${who[@]}" --instruction "$question" --context "$context" --max-new-tokens 48 --greedy --quiet
    done
fi

if [ "$data" = "$sample" ]; then
    say "Third act: did the LoRA help? Both models on the same held-out records"
    "$lathe" eval --model "$model" --adapter "$output/lora/final" --compare "$model" --data "$output/$task.h5" \
        --output "$output/evaluation" >"$output/evaluation.txt" 2>"$output/evaluation.log" ||
        { cat "$output/evaluation.log" >&2; exit 1; }
    sed '/^wrote/d' "$output/evaluation.txt"

    say "The same model with its adapter in one file, for llama.cpp and for Lathe itself"
    "$lathe" export --model "$model" --adapter "$output/lora/final" --format gguf --quantize q8_0 --verify --force \
        --output "$output/summaries.gguf"
    printf '> %s\n> %s\n' "$question" "$context"
    "$lathe" generate --model "$output/summaries.gguf" --instruction "$question" --context "$context" \
        --max-new-tokens 48 --greedy --quiet
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
END
if [ "$data" = "$sample" ]; then
    cat <<END
lora/final/, prefix/final/, prompt/final/   adapters of run/final: PEFT directories
methods.txt          the table of the second act
evaluation/report.html   both models side by side, with every answer
summaries.gguf       model and adapter, quantised
END
fi
cat <<END

Try next:
  $lathe generate --model $output/run/final --instruction "Name the capital of Peru."
  $lathe chat --model $output/run/final
  $lathe eval --model $output/run/final --compare $output/base --data $output/data.h5 --output $output/evaluation
  $lathe export --model $output/run/final --format hf --output $output/served --verify
  $lathe inspect $output/run/final
END
if [ "$data" = "$sample" ]; then
    cat <<END
  $lathe merge --model $output/run/final --adapter $output/lora/final --output $output/merged --verify
  scripts/quickstart.sh --data your.jsonl --output build/mine
END
fi
