#!/usr/bin/env bash
# lathe export as a user meets it: every format of a trained model and its adapters, read back and used, and everything
# that can not be exported refused in one line, with nothing written.
set -euo pipefail
source "$(dirname "$0")/train_common.sh"
make_data
golden=$LATHE_SOURCE_DIR/tests/golden

export_() { "$LATHE" export --threads 1 "$@" >export.log 2>&1 || fail "lathe export $*: $(cat export.log)"; }
has() { grep -qE -- "$2" "$1" || fail "'$2' is not in $1: $(cat "$1")"; }

# refuse CODE WORDS ARGUMENTS...: fails with CODE and one line on stderr that has WORDS, prints nothing else, writes nothing
refuse() {
    local code=$1 words=$2 got=0
    shift 2
    "$LATHE" export --threads 1 "$@" >out.log 2>err.log || got=$?
    equal "$got" "$code" "exit code of lathe export $* ($(cat err.log))"
    grep -qF -- "$words" err.log || fail "'$words' is not in: $(cat err.log)"
    equal "$(grep -vc "^Try 'lathe" err.log)" 1 "lines of the message of lathe export $*: $(cat err.log)"
    [ ! -s out.log ] || fail "lathe export $* printed: $(cat out.log)"
    [ -z "$(ls -A no 2>/dev/null)" ] || fail "lathe export $* left something behind: $(ls -A no)"
}

score() { "$LATHE" score --text "What is next to amber, please?" --json --threads 1 "$@" | sed -n '/log_prob/,/\]/p' | grep -o '[-][0-9.]*'; }
close() { # FILE FILE BOUND: the same numbers within a bound
    [ "$(wc -l <"$1")" -gt 5 ] || fail "$1 holds no scores"
    paste "$1" "$2" | awk -v bound="$3" '{ d = $1 - $2; if (d < 0) d = -d; if (d > bound || NF != 2) bad = 1 } END { exit bad }'
}

"$LATHE" train --model model --data data.h5 --output run --threads 1 --eval-samples 0 --max-steps 40 --learning-rate 1e-2 \
    >train.log 2>&1 || fail "train: $(tail -2 train.log)"
"$LATHE" train --model run/final --data data.h5 --output run-lora --threads 1 --eval-samples 0 --max-steps 20 \
    --learning-rate 2e-2 --method lora --lora-r 4 >train.log 2>&1 || fail "train lora: $(tail -2 train.log)"
"$LATHE" train --model run/final --data data.h5 --output run-prefix --threads 1 --eval-samples 0 --max-steps 2 \
    --method prefix >train.log 2>&1 || fail "train prefix: $(tail -2 train.log)"
model=run/final lora=run-lora/final prefix=run-prefix/final
score --model $model >model.scores
score --model $model --adapter $lora >lora.scores
close model.scores lora.scores 1e-3 && fail "the adapter changes nothing"

echo "--- hf"
echo "Some licence." >$model/LICENSE
echo "not a model's" >$model/notes.txt
cat >results_2026.json <<'EOF'
{"model_name": "base\u001b", "results": {"color_words": {"alias": "color_words", "acc,none": 0.625, "acc_stderr,none": 0.0559, "n": 4}}}
EOF
export_ --model $model --format hf --output out/hf --verify --max-shard-size 50KB --evaluation results_2026.json
has export.log '^verified .*logits differ by at most 0\.00e\+00'
has export.log '^exported      out/hf \(f32, 0\.2 MB in 14 files\)'
has export.log "^note          the card's evaluation is of base\?$"
for file in config.json generation_config.json model.safetensors.index.json tokenizer.json tokenizer_config.json \
    special_tokens_map.json chat_template.jinja lathe.json README.md LICENSE; do
    [ -s out/hf/$file ] || fail "out/hf/$file is missing"
done
[ ! -e out/hf/notes.txt ] && [ ! -e out/hf/trainer_state.json ] || fail "files of the run were carried"
equal "$(ls out/hf/model-*.safetensors | wc -l)" 4 "shards"
score --model out/hf >hf.scores
cmp model.scores hf.scores || fail "the export scores otherwise"
has out/hf/chat_template.jinja '### Response:'
hash=$(sed -n 's/.*"dataset_hash": "\(.*\)".*/\1/p' $model/trainer_state.json)
equal "${#hash}" 32 "the length of a hash"
for words in "^library_name: transformers$" "^pipeline_tag: text-generation$" "^# hf$" "$hash" "^\| Steps \| 40 \|" \
    "^\| Method \| full \|" "^\| learning_rate \| 0.01 \|" "^\| Validation loss \| [0-9.]+ \|" "template .dolly." \
    "^\| color_words \| acc \| 0.6250 \| 0.0559 \|" "vllm serve hf"; do
    has out/hf/README.md "$words"
done
head -1 out/hf/README.md | grep -x -- --- >/dev/null || fail "the card does not begin with its front matter"
grep -q "$PWD" out/hf/README.md && fail "the card tells paths of this machine"
grep -qE "base_model|lora_r|data.h5" out/hf/README.md && fail "the card tells too much: $(cat out/hf/README.md)"
export_ --model $model --format hf --output out/bf16 --dtype bf16 --verify
has export.log '\(5e-02 is expected\)'
has out/bf16/config.json '"(torch_)?dtype": "bfloat16"'
[ -s out/bf16/model.safetensors ] || fail "one shard was asked for"
grep -q "## Evaluation" out/bf16/README.md && fail "an evaluation of nothing"

export_ --model "$golden/models/llama" --format hf --output out/bare
has export.log '^note          the model has no tokenizer, so neither has the directory'
grep -qE "okenizer|vllm" out/bare/README.md && fail "the card uses a tokenizer that is not there: $(cat out/bare/README.md)"

echo "--- hf of an adapter: merged"
export_ --model $model --adapter $lora --format hf --output out/merged --verify
score --model out/merged >merged.scores
close merged.scores lora.scores 1e-4 || fail "merged scores otherwise"
has out/merged/README.md "^\| Method \| lora \|"
has out/merged/README.md "^\| lora_r \| 4 \|"
has out/merged/README.md "^\| Steps \| 20 \|"
has out/merged/generation_config.json '"eos_token_id": 600'

echo "--- peft"
for adapter in $lora $prefix; do
    rm -rf out/peft
    export_ --model $model --adapter "$adapter" --format peft --output out/peft --verify
    has export.log '^verified .*at most 0\.00e\+00'
    for file in adapter_config.json adapter_model.safetensors tokenizer.json chat_template.jinja lathe.json README.md; do
        [ -s out/peft/$file ] || fail "out/peft/$file is missing"
    done
    score --model $model --adapter out/peft >peft.scores
    score --model $model --adapter "$adapter" >source.scores
    cmp peft.scores source.scores || fail "the exported $adapter scores otherwise"
    has out/peft/README.md "^library_name: peft$"
done
has out/peft/README.md "^- prefix$"
export_ --model $model --adapter $lora --format peft --output out/peft16 --dtype bf16 --verify
"$LATHE" inspect out/peft16 | grep "lora_B.weight *BF16" >/dev/null || fail "the adapter is not bf16"

echo "--- gguf"
for type in f32 f16 bf16 q8_0 q6_k q5_0 q4_k_m q4_0; do
    case $type in f32 | f16 | bf16) option="--dtype $type" ;; *) option="--quantize $type" ;; esac
    export_ --model $model --adapter $lora --format gguf --output out/$type.gguf $option --verify
    has export.log '^verified .*logits differ by at most .* is expected'
    has export.log "^exported      out/$type.gguf \($type, .* in 1 file\)"
    score --model out/$type.gguf >$type.scores
    equal "$(wc -l <$type.scores)" "$(wc -l <lora.scores)" "the tokens that $type.gguf makes of the text"
done
close f32.scores lora.scores 1e-4 || fail "f32.gguf scores otherwise"
close f16.scores lora.scores 0.1 || fail "f16.gguf scores otherwise"
close q8_0.scores lora.scores 0.5 || fail "q8_0.gguf scores otherwise"
has export.log '^note .*not whole blocks' # q4_0: the output's rows
equal "$("$LATHE" generate --model out/f32.gguf --prompt 'What is next to' --max-new-tokens 8 --quiet)" \
    "$("$LATHE" generate --model out/merged --prompt 'What is next to' --max-new-tokens 8 --quiet)" "what f32.gguf goes on with"
# a question with a context, which the chat template has no place for, is put as it was trained
read_tokens() { "$LATHE" generate --model "$1" --instruction 'What is next?' --context 'amber' --max-new-tokens 1 --json 2>/dev/null | grep -o '"prompt_tokens":[0-9]*'; }
equal "$(read_tokens out/f32.gguf)" "$(read_tokens out/merged)" "tokens of a question with a context"
"$LATHE" inspect out/q8_0.gguf >inspect.log || fail "inspect: $(cat inspect.log)"
has inspect.log 'tokenizer.ggml.pre'
# there and back: the tokenizer and the template come out of the file
export_ --model out/f32.gguf --format hf --output out/back --verify
score --model out/back >back.scores
close back.scores lora.scores 1e-4 || fail "f32.gguf as a directory scores otherwise"
has out/back/lathe.json '"template": "dolly"'
cmp out/back/chat_template.jinja out/hf/chat_template.jinja || fail "another chat template"
export_ --model out/q8_0.gguf --format gguf --output out/again.gguf --quantize q8_0 --verify
has export.log '^verified .*at most 0\.00e\+00'
export_ --model $model --adapter $lora --format gguf --output out/adapter.gguf --no-merge --verify
has export.log '^verified      every tensor was read back as it was written'
"$LATHE" inspect out/adapter.gguf | grep "blk.0.attn_qkv.weight.lora_a" >/dev/null || fail "no adapter in adapter.gguf"
export_ --model "$golden/models/llama" --format gguf --output out/llama.gguf --verify
has export.log '^note .*no tokenizer'
"$LATHE" score --model out/llama.gguf --ids "1 2 3" >/dev/null || fail "ids need no tokenizer"

echo "--- what is there stays, or is replaced"
sum=$(cat out/hf/* | cksum)
refuse 2 "replace it with --force" --model $model --format hf --output out/hf
refuse 2 "exists; choose another name, or replace it with --force" --model $model --format gguf --output out/f32.gguf
equal "$(cat out/hf/* | cksum)" "$sum" "a directory that was there"
export_ --model $model --format hf --output out/hf/ --force --dtype f16
[ -s out/hf/model.safetensors ] && [ ! -e out/hf/model.safetensors.index.json ] || fail "old files among the new ones"
size=$(stat -c %s out/f32.gguf)
export_ --model $model --format gguf --output out/f32.gguf --force --quantize q8_0
[ "$(stat -c %s out/f32.gguf)" -lt "$size" ] || fail "the file was not replaced"
equal "$(ls -A out | grep -c tmp)" 0 "temporaries left in out"

echo "--- refused"
refuse 2 "--format" --model $model --format onnx --output no/x
refuse 2 "--quantize" --model $model --format gguf --output no/x.gguf --quantize q3_k
refuse 2 "--quantize is for --format gguf" --model $model --format hf --output no/x --quantize q8_0
refuse 2 "give one of them" --model $model --format gguf --output no/x.gguf --quantize q8_0 --dtype f16
refuse 2 "--output" --model $model --format hf
refuse 1 "nowhere" --model nowhere --format hf --output no/x
refuse 1 "nowhere holds no adapter" --model $model --adapter nowhere --format hf --output no/x
refuse 2 "names no directory" --model $model --adapter "" --format hf --output no/x
refuse 2 "writes an adapter: give it with --adapter DIR" --model $model --format peft --output no/x
refuse 2 "writes the adapter alone" --model $model --format gguf --no-merge --output no/x.gguf
refuse 2 "--no-merge is for --format gguf" --model $model --adapter $lora --format hf --no-merge --output no/x
refuse 2 "an adapter is not quantised" --model $model --adapter $lora --format gguf --no-merge --quantize q8_0 --output no/x.gguf
refuse 2 "ends in .gguf" --model $model --format gguf --output no/x
mkdir d.gguf && touch file
refuse 2 "is a directory, and --format gguf writes a file" --model $model --format gguf --output d.gguf --force
refuse 2 "holds the directory best, which --force would remove, too" --model $model --format hf --output run --force
[ -s $model/model.safetensors ] || fail "--force has removed a run"
mkdir -p papers && echo precious >papers/notes.txt
refuse 2 "holds files, but no model and no adapter" --model $model --format hf --output papers --force
[ -s papers/notes.txt ] || fail "--force has removed what is no model"
refuse 2 "is a file, and --format hf writes a directory" --model $model --format hf --output file --force
refuse 2 "no name" --model $model --format hf --output ""
refuse 1 "file" --model $model --format hf --output file/x
for size in 0 5XB -1 GB 1.5GB 99999999999999999999 99999999TB ""; do
    refuse 2 "--max-shard-size" --model $model --format hf --output no/x "--max-shard-size=$size"
done
refuse 1 "for another base" --model $model --adapter "$golden/adapters/gpt2_lora" --format hf --output no/x
refuse 2 "match no module of this model" --model "$golden/models/gpt2" --adapter "$golden/adapters/llama_lora" --format peft --output no/x
refuse 1 "which no weight and no model directory can hold: export it with --format peft" --model $model --adapter $prefix \
    --format hf --output no/x
refuse 1 "no GGUF file can hold" --model $model --adapter $prefix --format gguf --output no/x.gguf
refuse 1 "no GGUF file can hold" --model $model --adapter $prefix --format gguf --no-merge --output no/x.gguf
refuse 1 "DoRA" --model "$golden/models/gpt2" --adapter "$golden/adapters/gpt2_dora" --format gguf --no-merge --output no/x.gguf
refuse 1 "scale_attn_by_inverse_layer_idx" --model "$golden/models/gpt2_odd" --format gguf --output no/x.gguf
refuse 2 "is an adapter, not a model" --model $lora --format hf --output no/x
refuse 1 "absent.json" --model $model --format hf --output no/x --evaluation absent.json
echo '{"a": 1}' >odd.json
refuse 1 'odd.json: has no "results"' --model $model --format hf --output no/x --evaluation odd.json
echo '{"results": {}, "comparison": {}}' >odd.json
refuse 1 'odd.json: compares two models; give the results_' --model $model --format hf --output no/x --evaluation odd.json
refuse 2 "--evaluation is for the model card" --model $model --format gguf --output no/x.gguf --evaluation results_2026.json
head -c 3000 out/q8_0.gguf >cut.gguf
refuse 1 "cut.gguf" --model cut.gguf --format hf --output no/x
cp -r $model spaced
sed -i 's/"add_prefix_space": false/"add_prefix_space": true/' spaced/tokenizer.json
refuse 1 "add_prefix_space" --model spaced --format gguf --output no/x.gguf
if [ "$(id -u)" != 0 ]; then
    mkdir locked && chmod 555 locked
    refuse 1 "locked" --model $model --format hf --output locked/x
    refuse 1 "locked" --model $model --format gguf --output locked/x.gguf
fi

echo "--- no room"
mkdir no2
(ulimit -f 8 && ! "$LATHE" export --model $model --format hf --output no2/x >out.log 2>err.log) || fail "files beyond the limit"
has err.log 'File too large'
(ulimit -f 8 && ! "$LATHE" export --model $model --format gguf --output no2/x.gguf >out.log 2>err.log) || fail "a file beyond the limit"
has err.log 'File too large'
equal "$(ls -A no2)" "" "what is left of exports that did not fit"

# A disk that fails at any point: what was there before is there, and nothing else.
if [ -n "${LATHE_FAULT_SHIM:-}" ] && ! ldd "$LATHE" | grep libasan >/dev/null; then
    faults() { # KIND STEP TARGET ARGUMENTS...
        local kind=$1 step=$2 target=$3 at=0 code
        shift 3
        while :; do
            rm -rf faulty && mkdir faulty && cp -r before/. faulty
            code=0
            (
                export LD_PRELOAD="$LATHE_FAULT_SHIM" LATHE_FAULT_UNDER="$PWD/faulty" LATHE_FAULT_AT=$at
                export LATHE_FAULT_KIND=$kind LATHE_FAULT_COUNT=-1
                exec "$LATHE" export --threads 1 --model $model --output "$PWD/faulty/$target" --force "$@" >out.log 2>err.log
            ) || code=$?
            [ $code = 0 ] && break
            equal "$code" 1 "exit code with $kind at $at ($(cat err.log))"
            equal "$(wc -l <err.log)" 1 "lines of the message with $kind at $at"
            grep -q "may not survive a power cut" err.log ||
                diff -r before faulty >diff.log || fail "$kind at $at changed something: $(cat diff.log)"
            at=$((at + step))
        done
        [ $at -gt 4 ] || fail "$kind: only $at operations"
        cmp -s before/"$target" faulty/"$target" 2>/dev/null && fail "$target was not replaced"
        equal "$(ls -A faulty)" "$(ls -A before)" "names after a success"
    }
    mkdir -p before && cp out/again.gguf before/x.gguf && cp -r out/peft before/x
    faults enospc 1 x.gguf --format gguf --quantize q4_0
    faults eio 3 x.gguf --format gguf --quantize q4_0
    faults enospc 7 x --format hf
fi
echo "all passed"
