#!/usr/bin/env bash
# Wrong input of every kind, as a user meets it: one clear message that names file, line, tensor or flag, a non-zero
# exit, nothing half-written, never a crash.
source "$(dirname "$0")/common.sh"

absent() {
    if [ -e "$1" ] || ls "$1".tmp* >/dev/null 2>&1; then fail "$2: $1 was left behind"; fi
}

# --- Good things to break ---------------------------------------------------------------------------------------------
record() { printf '{"instruction": "%s", "context": "%s", "response": "%s", "category": "qa"}\n' "$@"; }
for i in $(seq 40); do record "What is number $i?" "" "It is $i."; done >good.jsonl
"$lathe" tokenizer train --input good.jsonl --vocab-size 300 --output tok >/dev/null || exit 1
"$lathe" prepare --input good.jsonl --tokenizer tok --output good.h5 --validation 5 >/dev/null || exit 1
"$lathe" init --family gpt2 --layers 1 --hidden-size 16 --heads 2 --max-position 256 --tokenizer tok --output model >/dev/null || exit 1
"$lathe" init --family llama --layers 1 --hidden-size 16 --heads 2 --kv-heads 1 --intermediate-size 24 --max-position 256 \
    --tokenizer tok --output llama >/dev/null || exit 1

"$lathe" init --family gpt2 --layers 8 --hidden-size 512 --heads 8 --max-position 256 --tokenizer tok --output wide >/dev/null || exit 1

# --- Flags ------------------------------------------------------------------------------------------------------------
refuse "unknown command" 2 "unknown command 'trian'; did you mean 'train'" "$lathe" trian
refuse "unknown flag" 2 "did you mean 'micro-batch-size'" "$lathe" train --micro-batch-sise 3
refuse "missing flag" 2 "--data" "$lathe" train --model model --output run
refuse "flag out of range" 2 "learning-rate.*out of range" "$lathe" train --model model --data good.h5 --output run --learning-rate -1
refuse "not a number" 2 "epochs.*not a number" "$lathe" train --model model --data good.h5 --output run --epochs many
refuse "not a choice" 2 "lr-scheduler.*cosine" "$lathe" train --model model --data good.h5 --output run --lr-scheduler round
printf 'learning_rate: 1e-4\nlearning_rat: 2\n' >bad.yaml
refuse "unknown key in YAML" 2 "bad.yaml:2.*did you mean 'learning-rate'" "$lathe" train --config bad.yaml
refuse "missing YAML" 1 "no.yaml" "$lathe" train --config no.yaml
refuse "vocabulary too small" 2 "vocab" "$lathe" tokenizer train --input good.jsonl --vocab-size 10 --output tok2
absent tok2 "vocabulary too small"
refuse "unknown family" 2 "gpt22" "$lathe" init --family gpt22 --tokenizer tok --output m2
refuse "heads do not divide" 2 "heads" "$lathe" init --family gpt2 --layers 1 --hidden-size 17 --heads 2 --tokenizer tok --output m2
absent m2 "heads do not divide"

# --- Files that are not there, or are in the way ------------------------------------------------------------------------
refuse "no such input" 1 "nothere.jsonl" "$lathe" prepare --input nothere.jsonl --tokenizer tok --output x.h5
refuse "no such tokenizer" 1 "notok" "$lathe" prepare --input good.jsonl --tokenizer notok --output x.h5
refuse "no such model" 1 "nomodel" "$lathe" generate --model nomodel --prompt hello
refuse "no such dataset" 1 "no.h5" "$lathe" train --model model --data no.h5 --output run
refuse "dataset exists" 2 "good.h5" "$lathe" prepare --input good.jsonl --tokenizer tok --output good.h5
refuse "model directory exists" 2 "model" "$lathe" init --family gpt2 --layers 1 --hidden-size 16 --heads 2 --tokenizer tok --output model
mkdir full && touch full/keep
refuse "output not empty" 2 "full" "$lathe" train --model model --data good.h5 --output full --max-steps 1
[ -e full/keep ] || fail 'output not empty: a file is gone'
refuse "output can not be made" 1 "proc" "$lathe" prepare --input good.jsonl --tokenizer tok --output /proc/x.h5

# --- Records --------------------------------------------------------------------------------------------------------------
bad_records() { # NAME PATTERN: the records come on standard input, after one good one
    { record a "" b; cat; } >bad.jsonl
    refuse "$1" 1 "$2" "$lathe" prepare --input bad.jsonl --tokenizer tok --output x.h5
    absent x.h5 "$1"
}
bad_records "malformed line" "bad.jsonl:2" <<<'{"instruction": "a", '
bad_records "missing field" "bad.jsonl:2.*response" <<<'{"instruction": "a", "context": ""}'
bad_records "empty response" "bad.jsonl:2.*response" < <(record a "" "")
bad_records "empty instruction" "bad.jsonl:2.*instruction" < <(record "" "" b)
bad_records "wrong type" "bad.jsonl:2" <<<'{"instruction": 3, "context": "", "response": "b"}'
bad_records "not an object" "bad.jsonl:2" <<<'[1, 2]'
bad_records "invalid UTF-8" "bad.jsonl:2.*UTF-8" < <(record a "" $'b\xff')
: >empty.jsonl
refuse "empty file" 1 "empty.jsonl" "$lathe" prepare --input empty.jsonl --tokenizer tok --output x.h5
refuse "wrong format" 1 "messages" "$lathe" prepare --input good.jsonl --format messages --tokenizer tok --output x.h5
refuse "everything too long" 1 "max-length" "$lathe" prepare --input good.jsonl --tokenizer tok --output x.h5 --max-length 8
printf 'not gzip' >bad.jsonl.gz
refuse "broken gzip" 1 "bad.jsonl.gz" "$lathe" prepare --input bad.jsonl.gz --tokenizer tok --output x.h5
absent x.h5 "records"

# --- Tokenizers -----------------------------------------------------------------------------------------------------------
cp -r tok badtok
echo '{"version": "1.0", "model": {"type": "Unigram"}}' >badtok/tokenizer.json
refuse "unknown tokenizer model" 1 "badtok.*Unigram" "$lathe" tokenizer encode --tokenizer badtok hello
head -c 500 tok/tokenizer.json >badtok/tokenizer.json
refuse "tokenizer cut short" 1 "badtok/tokenizer.json" "$lathe" tokenizer encode --tokenizer badtok hello
refuse "id beyond the vocabulary" 1 "99999" "$lathe" tokenizer decode --tokenizer tok 99999
refuse "not an id" 2 "abc" "$lathe" tokenizer decode --tokenizer tok abc

# --- Models -----------------------------------------------------------------------------------------------------------------
broken_model() { # NAME PATTERN PROGRAM FILE: a copy of `model` with one file put through sed or cut
    rm -rf bad && cp -r "$3" bad
    eval "$4"
    refuse "$1" 1 "$2" "$lathe" generate --model bad --prompt hello
    refuse "$1 (inspect)" 1 "$2" "$lathe" inspect bad
}
broken_model "weights cut short" "bad/model.safetensors" model 'truncate -s -100 bad/model.safetensors'
broken_model "weights with a tail" "bad/model.safetensors" model 'printf xx >>bad/model.safetensors'
broken_model "header length absurd" "bad/model.safetensors" model 'printf "\377\377\377\377\377\377\377\177" | dd of=bad/model.safetensors conv=notrunc status=none'
broken_model "weights missing" "safetensors" model 'rm bad/model.safetensors'
broken_model "config missing" "config.json" model 'rm bad/config.json'
broken_model "config malformed" "config.json" model 'echo "{" >bad/config.json'
broken_model "config with impossible sizes" "config.json" model 'sed -i "s/\"n_embd\": 16/\"n_embd\": 4611686018427387904/" bad/config.json'
broken_model "config with a zero size" "config.json" model 'sed -i "s/\"n_layer\": 1/\"n_layer\": 0/" bad/config.json'
broken_model "unsupported architecture" "T5ForConditionalGeneration|t5" model 'echo "{\"architectures\": [\"T5ForConditionalGeneration\"], \"model_type\": \"t5\"}" >bad/config.json'
broken_model "quantised weights" "quantization" model 'sed -i "1s/{/{\"quantization_config\": {\"quant_method\": \"gptq\"},/" bad/config.json'
rm -rf bad && cp -r model bad && sed -i 's/"n_embd": 16/"n_embd": 32/' bad/config.json
refuse "weights of another shape" 1 "model.safetensors.*(wte|wpe|ln_|c_attn)" "$lathe" generate --model bad --prompt hello
refuse "tensors of another family" 1 "tensor" bash -c 'rm -rf bad && cp -r model bad && cp llama/model.safetensors bad/ && exec "$0" generate --model bad --prompt hello' "$lathe"

# --- Model, tokenizer and dataset that do not match -----------------------------------------------------------------------
for i in $(seq 60); do record "Quite other words, $i times" "" "Zebra xylophone $i"; done >other.jsonl
"$lathe" tokenizer train --input other.jsonl --vocab-size 320 --output tok3 >/dev/null
"$lathe" prepare --input other.jsonl --tokenizer tok3 --output other.h5 >/dev/null
refuse "dataset of another tokenizer" 2 "other.h5.*another tokenizer" "$lathe" train --model model --data other.h5 --output run --max-steps 1
absent run "dataset of another tokenizer"

# --- Datasets -----------------------------------------------------------------------------------------------------------
head -c 3000 good.h5 >cut.h5
refuse "dataset cut short" 1 "cut.h5" "$lathe" train --model model --data cut.h5 --output run --max-steps 1
refuse "dataset cut short (inspect)" 1 "cut.h5" "$lathe" inspect cut.h5
cp good.h5 flip.h5
printf '\xa5' | dd of=flip.h5 bs=1 seek=2500 conv=notrunc status=none
refuse "dataset with a flipped byte" 1 "flip.h5" "$lathe" inspect flip.h5
echo hello >text.h5
refuse "not a dataset" 1 "text.h5" "$lathe" inspect text.h5
absent run "datasets"

# --- Running ------------------------------------------------------------------------------------------------------------
refuse "prompt too long" 1 "256" "$lathe" generate --model model --prompt "$(printf 'word %.0s' $(seq 2000))"
refuse "rows longer than the model sees" 2 "max-length" "$lathe" train --model model --data good.h5 --output run --max-length 4096
refuse "not enough memory" 1 "memory|MB|GB" "$lathe" train --model wide --data good.h5 --output run --micro-batch-size 65536 --max-length 256 --max-steps 1
absent run "running"
refuse "resume from nowhere" 2 "nocheckpoint" "$lathe" train --model model --data good.h5 --output run --resume nocheckpoint

if [ $failures -ne 0 ]; then
    echo "$failures of the refusals are wrong"
    exit 1
fi
echo "every wrong input was refused"
