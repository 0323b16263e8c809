#!/usr/bin/env bash
# Adapters as a user meets them: trained beside a model, used one at a time and mixed, scored, merged, looked at, and
# everything that is wrong with one refused in one line, with nothing written.
set -euo pipefail
source "$(dirname "$0")/train_common.sh"
make_data

# refuse CODE WORDS COMMAND...: fails with CODE and one line on stderr that has WORDS, prints nothing else, writes nothing
refuse() {
    local code=$1 words=$2 got=0
    shift 2
    "$LATHE" "$@" >out.log 2>err.log || got=$?
    equal "$got" "$code" "exit code of lathe $* ($(cat err.log))"
    grep -qF -- "$words" err.log || fail "'$words' is not in: $(cat err.log)"
    equal "$(wc -l <err.log)" 1 "lines of the message of lathe $*: $(cat err.log)"
    [ ! -s out.log ] || fail "lathe $* printed: $(cat out.log)"
    [ ! -e no ] || fail "lathe $* left something behind"
}

"$LATHE" prepare --input data.jsonl --template alpaca --tokenizer "$LATHE_SOURCE_DIR/tests/golden/dolly" \
    --output alpaca.h5 --validation 0.1 >prepare.log || fail "prepare"
"$LATHE" train --model model --data alpaca.h5 --output trained --threads 1 --eval-samples 0 --max-steps 60 \
    --learning-rate 1e-2 >train.log || fail "the base"
mv trained/final base
"$LATHE" train --model model --data alpaca.h5 --output trained16 --threads 1 --eval-samples 0 --max-steps 40 \
    --learning-rate 1e-2 --save-dtype bfloat16 >train.log || fail "the base in bf16"
mv trained16/final base16
before=$(cat base/* | cksum)

echo "--- one adapter of each kind"
adapt() { # NAME OPTIONS...
    local name=$1
    shift
    "$LATHE" train --model base --data alpaca.h5 --output "run-$name" --threads 1 --eval-samples 1 --max-steps 30 \
        --learning-rate 2e-2 "$@" >"$name.log" 2>&1 || fail "training $name: $(tail -2 "$name.log")"
    grep -qF "lathe generate --model base --adapter run-$name/final --instruction" "$name.log" || fail "$name: no hint"
    for file in adapter_config.json adapter_model.safetensors tokenizer.json lathe.json trainer_state.json; do
        [ -s "run-$name/final/$file" ] || fail "run-$name/final/$file is missing"
    done
    [ ! -e "run-$name/final/model.safetensors" ] || fail "$name: the whole model was written"
    mv "run-$name/final" "$name"
}
adapt lora --method lora --lora-dropout 0.1 --lora-r 4
adapt dora --method lora --use-dora --lora-target attention
adapt whole --method lora --modules-to-save embed,lm_head --lora-r 17
adapt rows --method lora --lora-target c_attn --modules-to-save embed
adapt head --method lora --lora-target c_attn --modules-to-save lm_head
adapt narrow --method lora --lora-target h.0.attn.c_attn --use-rslora --save-dtype bfloat16
adapt held16 --method lora --base-dtype bfloat16
adapt prefix --method prefix
adapt projection --method prefix --prefix-projection --num-virtual-tokens 7
adapt prompt --method prompt --prompt-tuning-init text --prompt-tuning-init-text "What is next?"
adapt p-tuning --method p-tuning --num-virtual-tokens 5
kinds=(lora dora whole rows head narrow held16 prefix projection prompt p-tuning)
equal "$(cat base/* | cksum)" "$before" "the base's bytes"
[ -s run-projection/checkpoint-30/prompt_encoder.safetensors ] || fail "the network is not in the checkpoint"

echo "--- warnings where others can not serve it"
grep -q "max-lora-rank" lora.log && fail "a plain adapter is warned of"
grep -q "DoRA: merge it with lathe merge" dora.log || fail "DoRA is not warned of"
grep -q "modules_to_save.*merge it" whole.log || fail "modules_to_save is not warned of"
grep -q -- "--max-lora-rank 17" whole.log || fail "the rank is not warned of"
grep -q "a prefix adapter is served by Lathe and by PEFT" prefix.log || fail "a prefix is not warned of"
grep -q "a prompt adapter is served by Lathe and by PEFT" prompt.log || fail "a prompt is not warned of"

echo "--- each alone"
words=(amber birch cedar dune ember)
for i in $(seq 0 19); do
    echo "{\"instruction\": \"What is next to ${words[i % 5]}, please?\", \"context\": \"$([ $((i % 3)) = 0 ] && echo "In a row.")\"}"
done >questions.jsonl
answers() { "$LATHE" generate --input questions.jsonl --max-new-tokens 8 --json --quiet --threads 1 "$@"; }
answers --model base >base.answers
[ "$(field adapter <base.answers)" = "" ] || fail "an adapter is named although there is none"
for kind in "${kinds[@]}"; do
    answers --model base --adapter "$kind" >"$kind.answers" || fail "generate with $kind"
    equal "$(field adapter <"$kind.answers" | sort -u)" "\"$kind\"" "the adapter named"
    cmp -s <(field ids <base.answers) <(field ids <"$kind.answers") && fail "$kind changes no answer"
done
"$LATHE" generate --model base --adapter lora --instruction "What is next to amber, please?" --quiet >said.txt
equal "$(answers --model base --adapter ./lora// | field adapter | sort -u)" '"lora"' "the name of a path with slashes"
"$LATHE" generate --model base --adapter x=run-lora/best/ --data alpaca.h5 --quiet >/dev/null 2>counted.err
grep -q '^exact match [0-9]*/12' counted.err || fail "held-out records with an adapter: $(cat counted.err)"

mkdir odd && cp -r lora odd/a=b
equal "$(answers --model base --adapter odd/a=b | field adapter | sort -u)" '"a=b"' "a path that is no NAME=DIR"

echo "--- mixed in one batch: as each alone"
names=("${kinds[@]}" base)
mapfile -t questions <questions.jsonl
declare -A expected
for name in "${names[@]}"; do
    mapfile -t ids < <(field ids <"$name.answers")
    for i in "${!ids[@]}"; do expected[$name $i]=${ids[i]}; done
done
wanted=() asked=()
for i in $(seq 0 239); do # every question to every adapter, neighbours alike and not
    question=$((i % 20)) name=${names[(i / 2 * 7 + i / 20) % 12]}
    echo "${questions[question]%\}}, \"adapter\": \"$name\"}"
    wanted+=("${expected[$name $question]}") asked+=("$name $question")
done >mixed.jsonl
"$LATHE" generate --model base --adapter "${kinds[@]}" --input mixed.jsonl --max-new-tokens 8 --json --quiet --threads 1 \
    >mixed.answers
mapfile -t ids < <(field ids <mixed.answers)
equal "${#ids[@]}" 240 "the number of answers"
for i in "${!ids[@]}"; do equal "${ids[i]}" "${wanted[i]}" "the answer ${asked[i]}, mixed with others"; done
[ "$(printf '%s\n' "${asked[@]}" | sort -u | wc -l)" = 240 ] || fail "not every question was put to every adapter"

echo "--- which adapter?"
first=$(head -1 questions.jsonl)
echo "${first%\}}, \"adapter\": \"lorra\"}" >unknown.jsonl
refuse 2 'unknown.jsonl:1: there is no adapter "lorra"; there are base, lora, prompt' generate --model base \
    --adapter lora prompt --input unknown.jsonl
refuse 2 'there is no adapter "lorra"; there are base' generate --model base --input unknown.jsonl
echo "${first%\}}, \"adapter\": 7}" >number.jsonl
refuse 2 'number.jsonl:1: "adapter" is not the name of one' generate --model base --adapter lora --input number.jsonl
refuse 2 "questions.jsonl:1 does not say which of the 2 adapters is meant" generate --model base --adapter lora prompt \
    --input questions.jsonl
refuse 2 "which of the 2 adapters" generate --model base --adapter a=lora b=lora --prompt hi
refuse 2 "which of the 2 adapters" generate --model base --adapter lora prompt --data alpaca.h5
refuse 2 'two adapters are called "final"' generate --model base --adapter run-lora/best/../final run-dora/final --prompt hi
refuse 2 'two adapters are called "a"' generate --model base --adapter a=lora a=prompt --prompt hi
refuse 2 '"base" means the model without an adapter' generate --model base --adapter base=lora --prompt hi
cp -r lora plain && sed -i 's/alpaca/plain/' plain/lathe.json
refuse 2 "trained with different templates (alpaca, plain)" generate --model base --adapter lora plain --prompt hi
refuse 2 "names no directory" generate --model base --adapter a= --prompt hi
refuse 2 "names no directory" generate --model base --adapter "" --prompt hi
refuse 1 "nowhere holds no adapter" generate --model base --adapter nowhere --prompt hi
refuse 1 "base/ holds no adapter" generate --model base --adapter x=base/ --prompt hi
refuse 2 "prepare the data with the template that the adapter was trained with" generate --model base --adapter lora \
    --data data.h5
refuse 1 "no room for an answer: the model sees 155" generate --model base --adapter p-tuning --prompt "$(seq -s ' ' 100)"

echo "--- score"
score() { "$LATHE" score --text "What is next to amber, please?" --json --threads 1 "$@" | sed -n '/log_prob/,/\]/p' | grep -o '[-][0-9.]*'; }
close() { # FILE FILE BOUND: the same numbers within a bound
    [ "$(wc -l <"$1")" -gt 5 ] || fail "$1 holds no scores"
    paste "$1" "$2" | awk -v bound="$3" '{ d = $1 - $2; if (d < 0) d = -d; if (d > bound || NF != 2) bad = 1 } END { exit bad }'
}
score --model base >base.scores
for kind in "${kinds[@]}"; do
    score --model base --adapter "$kind" >"$kind.scores"
    close base.scores "$kind.scores" 1e-3 && fail "$kind changes no score"
done
refuse 2 "one --adapter at a time" score --model base --adapter lora dora --text hi
refuse 1 "the model sees 153 at most" score --model base --adapter projection --ids "$(seq -s ' ' 154)"
# B = 0: nothing is changed
"$LATHE" train --model base --data alpaca.h5 --output zero --method lora --max-steps 1 --learning-rate 0 --threads 1 \
    --eval-samples 0 >/dev/null
score --model base --adapter zero/final >zero.scores
cmp base.scores zero.scores || fail "an adapter that has learned nothing changes the scores"

echo "--- merge"
merge() { "$LATHE" merge --threads 1 "$@"; }
for kind in lora dora whole rows head held16; do
    merge --model base --adapter "$kind" --output "merged-$kind" --verify >merge.log || fail "merging $kind: $(cat merge.log)"
    grep -q "^verified .*logits differ by at most [0-9.]*e-0[5-9]" merge.log || fail "$kind: $(cat merge.log)"
    grep -q "^merged model  merged-$kind (f32)" merge.log || fail "$kind: $(cat merge.log)"
    score --model "merged-$kind" >merged.scores
    close merged.scores "$kind.scores" 1e-4 || fail "merged $kind scores otherwise"
    answers --model "merged-$kind" >merged.answers
    cmp <(field ids <merged.answers) <(field ids <"$kind.answers") || fail "merged $kind answers otherwise"
done
equal "$(cat base/* | cksum)" "$before" "the base's bytes"
"$LATHE" inspect merged-whole | grep "head of its own" >/dev/null || fail "embedding and head were trained apart"
"$LATHE" inspect merged-lora | grep "head tied" >/dev/null || fail "a tied model should stay tied"
refuse 1 "a prefix adapter can not be merged" merge --model base --adapter prefix --output no
refuse 1 "a prompt adapter can not be merged: it adds virtual tokens" merge --model base --adapter prompt --output no --verify
refuse 1 "a p-tuning adapter can not be merged" merge --model base16 --adapter p-tuning --output no --dtype f32
refuse 1 "lathe generate --model BASE --adapter DIR" merge --model base16 --adapter projection --output no
sum=$(cat merged-lora/* | cksum)
refuse 2 "merged-lora" merge --model base --adapter dora --output merged-lora
equal "$(cat merged-lora/* | cksum)" "$sum" "a model that was there"
refuse 2 "the base is stored as bf16 and the adapter as f32" merge --model base16 --adapter lora --output no
refuse 2 "--dtype bf16 (rounded once, as the base)" merge --model base16 --adapter lora --output no --verify
refuse 2 "the base is stored as f32 and the adapter as bf16" merge --model base --adapter narrow --output no
for dtype in f32 bf16 f16; do
    merge --model base16 --adapter lora --output "as-$dtype" --dtype $dtype --verify >merge.log || fail "$dtype: $(cat merge.log)"
    grep -q "($dtype)" merge.log || fail "$dtype: $(cat merge.log)"
    "$LATHE" inspect "as-$dtype" | grep -i " $dtype " >/dev/null || fail "as-$dtype is not $dtype"
done
merge --model base16 --adapter narrow --output as-both >merge.log || fail "both bf16: $(cat merge.log)"
grep -q "(bf16)" merge.log || fail "both are bf16: $(cat merge.log)"

echo "--- what is in it"
"$LATHE" inspect lora >inspect.log
for words in "^method *lora" "^base *base" "^rank *4, alpha 16, dropout 0.1" "^targets *c_attn, c_fc, c_proj" "c_fc.lora_B.weight *F32 *\[128, 4\]"; do
    grep -q "$words" inspect.log || fail "inspect lacks '$words': $(cat inspect.log)"
done
"$LATHE" inspect whole | grep "^whole *wte, lm_head" >/dev/null || fail "inspect of modules_to_save"
"$LATHE" inspect projection --stats | grep "prompt_embeddings *F32 *\[7, 128\].*mean" >/dev/null || fail "inspect of a prefix"
"$LATHE" inspect run-lora/checkpoint-30 | grep "every file is as it was written" >/dev/null || fail "inspect of a checkpoint"
for command in "generate --prompt hi" "score --text hi" "merge --adapter lora --output no" "train --data alpaca.h5 --output no"; do
    refuse 2 "lora is an adapter, not a model: give its base (base) as --model, and this as --adapter" $command --model lora
done

echo "--- training: what can not be"
train=(train --model base --data alpaca.h5 --output no --threads 1)
refuse 2 'the model has no module "q_proj"' "${train[@]}" --method lora --lora-target q_proj
refuse 2 'did you mean "c_attn"' "${train[@]}" --method lora --lora-target c_atn
refuse 2 "match no module of this model" "${train[@]}" --method lora --lora-target h.0.mlp.c_fc --layers-to-transform 1
refuse 2 "2 blocks count from 0" "${train[@]}" --method lora --layers-to-transform 0,2
refuse 2 "rank 33 is larger than the matrix of transformer.h.0.attn.c_attn, which is 96 x 32" "${train[@]}" --method lora --lora-r 33
refuse 2 "at least 1 is needed" "${train[@]}" --method prefix --num-virtual-tokens 0
refuse 2 "leaves no room for text" "${train[@]}" --method prompt --num-virtual-tokens 159
refuse 2 "behind the virtual tokens" "${train[@]}" --method p-tuning --max-length 141
refuse 2 "needs the text" "${train[@]}" --method prompt --prompt-tuning-init text
refuse 2 "goes with --prompt-tuning-init text" "${train[@]}" --method prompt --prompt-tuning-init-text hi
refuse 2 "--lora-r does not go with --method prefix; it is for lora" "${train[@]}" --method prefix --lora-r 4
refuse 2 "--num-virtual-tokens does not go with --method lora" "${train[@]}" --method lora --num-virtual-tokens 4
refuse 2 "--freeze-layers does not go with --method lora; it is for full" "${train[@]}" --method lora --freeze-layers 1
refuse 2 "--base-dtype does not go with --method full" "${train[@]}" --base-dtype bfloat16
refuse 2 "finds no parameter" "${train[@]}" --freeze q_proj
refuse 2 "is wrong at character" "${train[@]}" --train "c_(attn"
refuse 2 "3 special tokens that the model has no rows for" train --model model --data data.h5 --output no --method prefix
refuse 2 "method was \"lora\", is \"prefix\"" train --model base --data alpaca.h5 --output run-lora --max-steps 30 --method prefix
refuse 2 "lora_r was 4, is 5" train --model base --data alpaca.h5 --output run-lora --threads 1 --max-steps 30 \
    --learning-rate 2e-2 --method lora --lora-dropout 0.1 --lora-r 5

echo "--- the rows of new tokens come with the adapter"
"$LATHE" train --model model --data data.h5 --output run-tokens --threads 1 --eval-samples 1 --max-steps 60 --method lora \
    --learning-rate 2e-2 >tokens.log
grep -q "no rows for 3 special tokens" tokens.log || fail "new rows are not told of: $(cat tokens.log)"
answers --model model --adapter run-tokens/final | field finish_reason | grep stop >/dev/null || fail "no answer ends by itself"
"$LATHE" generate --model model --adapter run-tokens/final --data data.h5 --quiet >/dev/null 2>&1 || fail "generate --data"
merge --model model --adapter run-tokens/final --output merged-tokens --verify >merge.log || fail "$(cat merge.log)"
"$LATHE" inspect merged-tokens | grep "vocabulary   603" >/dev/null || fail "the merged model has other rows"
grep -q '"eos_token_id": 600' merged-tokens/generation_config.json || fail "the merged model ends with another token"
answers --model merged-tokens >merged.answers
cmp <(field ids <merged.answers) <(answers --model model --adapter run-tokens/final | field ids) || fail "merged tokens"
refuse 2 "different tokenizers" generate --model base --adapter lora run-tokens/final --input mixed.jsonl

echo "--- adapters that do not fit or are damaged"
broken() { # CODE WORDS COPY-OF: the copy, as `edit` leaves it, is refused
    refuse "$1" "$2" generate --model base --adapter broken --prompt hi
    refuse "$1" "$2" score --model base --adapter broken --text hi
    refuse "$1" "$2" merge --model base --adapter broken --output no
}
copy() { rm -rf broken && cp -r "$1" broken; }
edit() { # OLD NEW
    sed -i "s/$1/$2/" broken/adapter_config.json
    cmp -s broken/adapter_config.json "$source/adapter_config.json" && fail "'$1' is not in adapter_config.json"
    return 0
}
source=lora
copy lora && truncate -s -9 broken/adapter_model.safetensors && broken 1 "cut short"
copy lora && truncate -s 6 broken/adapter_model.safetensors && broken 1 "too few for a safetensors file"
copy lora && rm broken/adapter_model.safetensors && broken 1 "broken/adapter_model.safetensors"
copy lora && head -c 100 lora/adapter_config.json >broken/adapter_config.json && broken 1 "not valid JSON"
copy lora && edit '"LORA"' '"IA3"' && broken 1 "adapters of type IA3 are not supported"
copy lora && edit '"r": 4' '"r": 5' && broken 1 "asks for [5, 32]: the adapter is for another base"
copy lora && edit '"r": 4' '"r": 64' && broken 2 "rank 64 is larger than the matrix"
copy lora && edit '"c_fc"' '"q_proj"' && broken 1 "does not belong to a lora adapter of this gpt2 model of 2 layers"
copy lora && edit '"use_dora": false' '"use_dora": true' && broken 1 "lora_magnitude_vector\" is missing"
copy lora && edit '"bias": "none"' '"bias": "all"' && broken 1 '"bias": "all" is not supported'
copy lora && edit '"lora_bias": false' '"lora_bias": true' && broken 1 '"lora_bias" is not supported'
copy lora && edit '"rank_pattern": {}' '"rank_pattern": {"(": 4}' && broken 2 "rank_pattern: the regular expression"
copy lora && edit '"modules_to_save": null' '"modules_to_save": ["score"]' && broken 1 'modules_to_save names "score"'
source=prefix
copy prefix && edit '"num_virtual_tokens": 20' '"num_virtual_tokens": 19' && broken 1 "asks for [19, 128]"
copy prefix && edit '"num_virtual_tokens": 20' '"num_virtual_tokens": 160' && broken 1 "leave no room for text"
copy prefix && edit '"num_virtual_tokens": 20' '"num_virtual_tokens": 0' && broken 1 "must be from 1"
copy prefix && edit 'PREFIX_TUNING' 'PROMPT_TUNING' && broken 1 "has shape [20, 128]"
"$LATHE" init --family gpt2 --layers 2 --hidden-size 64 --heads 2 --max-position 160 \
    --tokenizer "$LATHE_SOURCE_DIR/tests/golden/dolly" --output wide >init.log
"$LATHE" init --family gpt2 --layers 1 --hidden-size 32 --heads 2 --max-position 160 \
    --tokenizer "$LATHE_SOURCE_DIR/tests/golden/dolly" --output low >init.log
"$LATHE" init --family llama --layers 2 --hidden-size 32 --heads 2 --max-position 160 \
    --tokenizer "$LATHE_SOURCE_DIR/tests/golden/dolly" --output llama >init.log
for kind in lora prefix prompt; do
    refuse 1 "(gpt2, hidden size 64, 2 layers)" generate --model wide --adapter $kind --prompt hi
done
refuse 1 "h.1.attn.c_attn.lora_A.weight\" does not belong" generate --model low --adapter lora --prompt hi
refuse 1 "asks for [20, 64]: the adapter is for another base, base" generate --model low --adapter prefix --prompt hi
refuse 2 "match no module of this model (llama" generate --model llama --adapter lora --prompt hi
refuse 2 "match no module of this model (llama" merge --model llama --adapter lora --output no
echo "all well"
