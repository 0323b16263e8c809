#!/usr/bin/env bash
# lathe eval as a user runs it: tables, files, comparison, judge, and every wrong input named. That its numbers are those
# of lm-evaluation-harness is shown by the unit tests.
set -euo pipefail
source "$(dirname "$0")/train_common.sh"

golden="$LATHE_SOURCE_DIR/tests/golden"
words="$golden/evaluation/gpt2_words" tasks="$golden/tasks"

eval_() { # WANTED_EXIT_CODE ARGUMENTS...
    local wanted=$1 status=0
    shift
    "$LATHE" eval --threads 1 --bootstrap 1000 "$@" >out 2>err || status=$?
    [ "$status" = "$wanted" ] || fail "lathe eval $*: exit $status, not $wanted: $(tail -3 err)"
}
shows() { grep -qE -- "$1" out || fail "the output lacks '$1': $(head -40 out)"; }
tells() { grep -qE -- "$1" err || fail "the messages lack '$1': $(cat err)"; }
refused() { # EXIT_CODE PATTERN ARGUMENTS...
    local wanted=$1 pattern=$2
    shift 2
    eval_ "$wanted" "$@"
    tells "$pattern"
    [ ! -s out ] || fail "lathe eval $*: output beside an error: $(cat out)"
}
value() { sed -nE "s/^ *\"$1\": ([-0-9.e]+),?$/\1/p" "$2" | head -n 1; } # KEY FILE
near() { awk -v a="$1" -v b="$2" -v t="$3" 'BEGIN { d = a - b; exit !(d <= t && -d <= t && a != "") }'; }

echo "--- tasks: the table, and files in the shape of lm-evaluation-harness"
eval_ 0 --model "$words" --tasks "$tasks/arc.jsonl" "$tasks/hellaswag.jsonl" "$tasks/texts.jsonl" --output tasks
shows '^arc +value'
shows '^  acc_norm .* [0-9.]+ %'
shows '^  3 longer than the model.s context: the beginning was left out'
shows '^  byte_perplexity'
shows '^wrote tasks/report.html$'
directory=$(ls -d tasks/*words)
results=$(ls "$directory"/results_*.json)
for key in '"acc,none"' '"acc_stderr,none"' '"acc_norm,none"' '"n-samples"' '"n-shot"' '"higher_is_better"' '"configs"' \
    '"model_name_sanitized"' '"total_evaluation_time_seconds"'; do
    grep -q "$key" "$results" || fail "$results lacks $key"
done
[ "$(cat "$directory"/samples_arc_*.jsonl | wc -l)" = 8 ] || fail "not a sample for each document"
grep -qE '"doc_id": ?0' <(head -n 1 "$directory"/samples_hellaswag_*.jsonl) || fail "samples are not in order"
[ -z "$(find tasks -name '*.partial.*')" ] || fail "a partial file is left"
grep -q '^task: .*texts' tasks/texts.yaml || fail "no tasks/texts.yaml for lm-evaluation-harness"
[ ! -e tasks/arc.yaml ] || fail "a published benchmark was written for lm-evaluation-harness"
grep -q '</html>' tasks/report.html || fail "report.html is not whole"

echo "--- --json is the results file, batches and threads do not matter"
eval_ 0 --model "$words" --tasks "$tasks/arc.jsonl" "$tasks/texts.jsonl" --json --output json
clean() { grep -vE '"(date|total_evaluation_time_seconds)"' "$1"; }
cmp <(clean out) <(clean json/*words/results_*.json) || fail "--json differs from the file"
tells '^wrote json/report.html'
eval_ 0 --model "$words" --tasks "$tasks/arc.jsonl" "$tasks/texts.jsonl" --json --batch-size 1
near "$(value bits_per_byte,none out)" "$(value bits_per_byte,none json/*words/results_*.json)" 1e-6 || fail "batches matter"
eval_ 0 --model "$words" --tasks "$tasks/arc.jsonl" --limit 3 --json
[ "$(value effective out)" = 3 ] && [ "$(value original out)" = 8 ] || fail "--limit: $(cat out)"

echo "--- a dataset: the loss that training tells, and answers"
make_data
"$LATHE" train --model model --data data.h5 --output run --method lora --lora-r 4 --max-steps 8 --learning-rate 3e-2 \
    --threads 1 --eval-samples 0 >train.log || fail "train: $(tail -3 train.log)"
eval_ 0 --model model --data data.h5 --json --no-generate
loss=$(sed -nE 's/^held out, step 0: loss ([0-9.]+) .*/\1/p' train.log)
near "$(value loss,none out)" "$loss" 1e-4 || fail "held-out loss $(value loss,none out), training says $loss"
near "$(value token_perplexity,none out)" "$(sed -nE 's/^held out, step 0: .*perplexity ([0-9.]+) .*/\1/p' train.log)" 2e-2 ||
    fail "perplexity $(value token_perplexity,none out)"
! grep -q exact_match out || fail "--no-generate has answers"
grep -q '"dataset/open_qa"' out && grep -q '"dataset/closed_qa"' out || fail "no results by category"

echo "--- did the tuning help?"
# the template's prompt ends with a special token that ends with a line feed
eval_ 0 --model model --adapter run/final --tasks "$tasks/choices.jsonl" --apply-chat-template
shows '^  acc_norm'
eval_ 0 --model model --adapter run/final --compare model --data data.h5 --max-new-tokens 8 --output compared
shows '^a: model$'
shows '^b: model \+ run/final$'
shows '^  loss .* better$'
[ "$(ls -d compared/*/ | wc -l)" = 2 ] || fail "not a directory for each model: $(ls compared)"
for file in compared/model+run__final/samples_answers_*.jsonl compared/model/samples_dataset_*.jsonl; do
    [ -s "$file" ] || fail "no samples: $file"
done
grep -q '"verdict": "better"' compared/comparison_*.json || fail "no verdict"
grep -q '"peft": "run/final"' compared/model+run__final/results_*.json || fail "the adapter is not named"
tr -d ' \n' <compared/comparison_*.json >flat
grep -q '"compared":{"model_name":"model","adapter":"run/final"' flat || fail "the compared model is not named: $(cat flat)"
near "$(value loss,none compared/comparison_*.json)" "$loss" 1e-4 || fail "the comparison's results are not the baseline's"
low=$(value high compared/comparison_*.json)
near "$(value loss,none compared/model+run__final/results_*.json)" \
    "$(sed -nE 's/^held out, step 8: loss ([0-9.]+) .*/\1/p' train.log)" 1e-4 || fail "the adapter's loss is not that of training"
awk -v x="$low" 'BEGIN { exit !(x < 0) }' || fail "the loss fell, its interval does not: $low"
# the other way round: an adapter as the baseline, without saying the model twice
eval_ 0 --model model --compare-adapter run/final --data data.h5 --no-generate
shows '^a: model \+ run/final$'
shows '^  loss .* worse$'

# two models, and documents that do not fit
eval_ 0 --model "$words" --compare "$golden/evaluation/llama_words" --tasks "$tasks/hellaswag.jsonl"
shows 'gpt2_words, hellaswag: 3 of 8 documents did not fit the 64 tokens'
shows 'llama_words, hellaswag: '

echo "--- a dataset's special tokens and template do not reach other tasks"
eval_ 0 --model model --tasks "$tasks/choices.jsonl" --output alone
eval_ 0 --model model --tasks "$tasks/choices.jsonl" --data data.h5 --no-generate --output beside
cmp alone/model/samples_choices_*.jsonl beside/model/samples_choices_*.jsonl || fail "other samples beside a dataset"

echo "--- text: longer than the model sees, in windows"
head -c 3000 "$LATHE_SOURCE_DIR/docs/DESIGN.md" >long.txt
eval_ 0 --model model --text long.txt --output text
shows '^long +value'
shows 'word_perplexity'

echo "--- a judge, and a rubric of one's own"
eval_ 0 --model model --data data.h5 --limit 4 --max-new-tokens 4 --judge model --json
share=$(value judge,none out)
awk -v x="$share" 'BEGIN { exit !(x > 0 && x < 1) }' || fail "the judge says '$share'"
printf 'Question: {instruction}\nAnswer: {answer}\nGood?' >rubric.txt
eval_ 0 --model model --data data.h5 --limit 4 --max-new-tokens 4 --judge model --rubric rubric.txt --json
[ "$(value judge,none out)" != "$share" ] || fail "the rubric changes nothing"

judged=$(value judge,none out)
[ "$judged" != "$share" ] || fail "the rubric changes nothing"
printf '\n\n' >>rubric.txt # an editor's last line break is none of the rubric
eval_ 0 --model model --data data.h5 --limit 4 --max-new-tokens 4 --judge model --rubric rubric.txt --json
[ "$(value judge,none out)" = "$judged" ] || fail "line breaks at the rubric's end matter"

echo "--- examples and chat templates"
ask() { # OUTPUT ARGUMENTS...
    eval_ 0 --model "$golden/evaluation/llama_words" --tasks "$tasks/choices.jsonl" --output "$@"
}
differ() { ! cmp -s "$1"/*/samples_*.jsonl "$2"/*/samples_*.jsonl || fail "$1 and $2 have the same samples"; }
ask plain
ask two --num-fewshot 2
ask first --num-fewshot 2 --fewshot-sampler first_n
ask others --num-fewshot 2 --fewshot-data "$tasks/copies.jsonl"
ask chat --apply-chat-template
ask turns --apply-chat-template --num-fewshot 1
grep -qF '[user] ' turns/*/samples_*.jsonl || fail "no chat template: $(head -n 1 turns/*/samples_*.jsonl)"
[ "$(head -n 1 turns/*/samples_*.jsonl | grep -o '"gen_args_0": {[^}]*' | grep -o '\[[a-z]*\]' | tr -d '\n')" = \
    '[user][assistant][user][assistant]' ] || fail "examples are no turns: $(head -n 1 turns/*/samples_*.jsonl)"
differ plain two
differ two first
differ two others
differ plain chat
grep -q '"num_fewshot": 2' two/*/results_*.json || fail "the number of examples is not named"

echo "--- a model without a tokenizer: a dataset brings its own"
cp -r model bare
rm bare/tokenizer*.json
eval_ 0 --model bare --data data.h5 --json --no-generate
near "$(value loss,none out)" "$loss" 1e-4 || fail "loss $(value loss,none out) without a tokenizer"
"$LATHE" init --family gpt2 --layers 1 --hidden-size 16 --heads 2 --tokenizer "$words" --output small >init.log || fail "init"
rm small/tokenizer*.json
refused 2 'tokenizer of data.h5 has .* tokens, the model' --model small --data data.h5
refused 1 'model bare.*tokenizer' --model bare --tasks "$tasks/arc.jsonl"
refused 1 'model bare.*tokenizer' --model bare --data data.h5 --tasks "$tasks/arc.jsonl"
refused 1 'compare bare.*tokenizer' --model model --compare bare --tasks "$tasks/arc.jsonl"

echo "--- what is left out is said"
"$LATHE" prepare --input long.txt --tokenizer model --output plain.h5 --validation 0.5 --max-length 64 >prepare.log ||
    fail "prepare: $(tail -3 prepare.log)"
eval_ 0 --model model --data plain.h5
tells 'plain.h5 has no questions to answer'
shows '^dataset'
eval_ 0 --model "$words" --tasks "$tasks/arc.jsonl" "$tasks/answers.jsonl" --no-generate
tells 'answers is left out'

echo "--- wrong input is named"
printf '{"query": "a b", "choices": ["c", "d"], "gold": 0}\n{"query": "a b", "choices": ["c", "d"], "gold": 2}\n' >gold.jsonl
refused 1 'gold.jsonl:2.*gold' --model "$words" --tasks gold.jsonl
printf '{"query": "a b", "choices": ["c", "d"], "gold": 0}\n{"query": "a b", "gold": 0}\n' >shape.jsonl
refused 1 'shape.jsonl:2.*choices' --model "$words" --tasks shape.jsonl
printf '{"query": "a b", "choices": ["c"], "gold": 0\n' >json.jsonl
refused 1 'json.jsonl:1' --model "$words" --tasks json.jsonl
printf '{"this": "is", "no": "task"}\n' >other.jsonl
refused 2 'other.jsonl.*hellaswag' --model "$words" --tasks other.jsonl
refused 2 'squadd' --model "$words" --tasks squadd=gold.jsonl
refused 1 'missing.jsonl' --model "$words" --tasks missing.jsonl
: >empty.jsonl
refused 1 'empty.jsonl' --model "$words" --tasks empty.jsonl
: >empty.txt
refused 1 'empty.txt' --model "$words" --text empty.txt
refused 1 'nowhere' --model nowhere --text long.txt
refused 1 'nowhere' --model model --compare nowhere --text long.txt
refused 1 'nowhere' --model model --adapter nowhere --text long.txt
refused 1 'data.jsonl' --model model --data data.jsonl
refused 2 'nothing to evaluate' --model model
refused 2 'model' --text long.txt
refused 2 'with itself' --model model --compare model --text long.txt
refused 2 'with itself' --model model --adapter run/final --compare-adapter run/final --text long.txt
refused 2 'rubric.*judge' --model model --data data.h5 --rubric rubric.txt
refused 2 'exclude each other' --model model --data data.h5 --judge model --no-generate
refused 2 'no task is answered by text' --model model --text long.txt --judge model
printf 'Is it good?' >bad_rubric.txt
refused 1 'bad_rubric.txt.*\{answer\}' --model model --data data.h5 --judge model --rubric bad_rubric.txt
refused 2 'fewshot-data.*one file' --model "$words" --tasks "$tasks/arc.jsonl" "$tasks/piqa.jsonl" --fewshot-data "$tasks/arc_train.jsonl"
refused 2 'none of .*arc_train.jsonl would be shown; give their number' --model "$words" --tasks "$tasks/arc.jsonl" \
    --fewshot-data "$tasks/arc_train.jsonl"
refused 2 'has no chat template: it was trained with none, and its tokenizer has none' --model "$words" \
    --tasks "$tasks/arc.jsonl" --apply-chat-template
refused 2 'max-length 5000.*sees 160' --model model --text long.txt --max-length 5000
refused 2 'no-generate leaves no task' --model "$words" --tasks "$tasks/answers.jsonl" --no-generate
refused 2 'leave no room for a question in the 160' --model model --data data.h5 --max-new-tokens 160
refused 2 'leave no room for a question in the 100' --model model --data data.h5 --max-new-tokens 100 --max-length 100
mkdir -p twice
cp "$tasks/choices.jsonl" twice/choices.jsonl
refused 2 'both called "choices"' --model "$words" --tasks "$tasks/choices.jsonl" twice/choices.jsonl
refused 2 'did you mean' --model model --task long.txt
printf 'data' >file
refused 1 'file' --model "$words" --tasks "$tasks/arc.jsonl" --output file/eval
status=0
"$LATHE" eval --model "$words" --tasks "$tasks/arc.jsonl" --bootstrap 0 >/dev/full 2>err || status=$?
[ "$status" = 1 ] || fail "exit $status when the results can not be written"
tells 'standard output'
echo "lathe eval: all as expected"
