#!/usr/bin/env bash
# lathe generate on a small fresh model: sources of prompts, sampling, JSON lines, counting, refusals.
set -euo pipefail
source "$(dirname "$0")/train_common.sh"

# refuse CODE WORDS ARGUMENTS...: the command must fail with CODE and say WORDS, and print no answer
refuse() {
    local code=$1 words=$2 got=0
    shift 2
    "$LATHE" generate "$@" >out.txt 2>err.txt || got=$?
    equal "$got" "$code" "exit code of generate $* ($(cat err.txt))"
    contains "$(cat err.txt)" "$words"
    equal "$(cat out.txt)" "" "output of generate $*"
}

# --- A tokenizer, a dataset with a held-out part, and a model -------------------------------------
for i in $(seq 60); do
    echo "{\"instruction\":\"Say number $i.\",\"context\":\"\",\"response\":\"It is $i.\",\"category\":\"c$((i % 2))\"}"
done >records.jsonl
"$LATHE" tokenizer train --input records.jsonl --vocab-size 300 --output tokenizer >/dev/null
"$LATHE" prepare --input records.jsonl --tokenizer tokenizer --output data.h5 --validation 10 >/dev/null
"$LATHE" init --family gpt2 --layers 1 --hidden-size 32 --heads 2 --max-position 128 \
    --tokenizer tokenizer --output model --seed 3 >/dev/null

# --- One prompt -----------------------------------------------------------------------------------
"$LATHE" generate --model model --prompt "Say" --greedy --max-new-tokens 8 >a.txt 2>a.err
"$LATHE" generate --model model --prompt "Say" --max-new-tokens 8 --quiet >b.txt 2>b.err
cmp a.txt b.txt || fail "greedy is not the default"
contains "$(cat a.err)" "tokens/s"
equal "$(cat b.err)" "" "stderr with --quiet"

line=$("$LATHE" generate --model model --prompt "Say" --greedy --max-new-tokens 8 --json --quiet)
equal "$(field index <<<"$line")" 0 index
equal "$(field prompt <<<"$line")" '"Say"' prompt
equal "$(field new_tokens <<<"$line")" "$(field ids <<<"$line" | tr ',' '\n' | wc -l)" "new_tokens and ids"
equal "$(field finish_reason <<<"$line")" '"length"' finish_reason

# the same seed draws the same, another one something else
draw() { "$LATHE" generate --model model --prompt "Say" --temperature 1.5 --top-k 50 --top-p 0.95 --seed "$1" --max-new-tokens 30 --json --quiet; }
equal "$(draw 1)" "$(draw 1)" "same seed"
[ "$(draw 1)" != "$(draw 2)" ] || fail "the seed makes no difference"

# --- Several prompts ------------------------------------------------------------------------------
cat >prompts.jsonl <<'END'
{"prompt": "Say"}
{"prompt": "Say number 7."}
{"prompt": "It is"}
END
"$LATHE" generate --model model --input prompts.jsonl --max-new-tokens 8 --json --quiet >many.jsonl
equal "$(wc -l <many.jsonl)" 3 "lines of --input"
equal "$(field ids <<<"$line")" "$(sed -n 1p many.jsonl | field ids)" "batched and single answers"
equal "$(sed -n 3p many.jsonl | field index)" 2 "order of answers"
"$LATHE" generate --model model --input prompts.jsonl --max-new-tokens 8 --limit 2 --quiet >many.txt
contains "$(cat many.txt)" "[1/2] Say"
contains "$(cat many.txt)" "[2/2] Say number 7."

# a stop text ends the answer and is not shown
text=$(field text <<<"$line" | tr -d '"')
if [ "${#text}" -gt 4 ] && [[ $text != *\\* ]]; then
    stop=${text:2:2}
    cut=$("$LATHE" generate --model model --prompt "Say" --greedy --max-new-tokens 8 --stop "$stop" --json --quiet)
    equal "$(field text <<<"$cut" | tr -d '"')" "${text%%"$stop"*}" "text before the stop"
    equal "$(field finish_reason <<<"$cut")" '"stop"' "finish_reason at a stop text"
fi

# --- The held-out records: a fresh model gets rows for the template's tokens ----------------------
"$LATHE" generate --model model --data data.h5 --max-new-tokens 8 --json >held.jsonl 2>held.err
equal "$(wc -l <held.jsonl)" 10 "held-out records"
grep -q '^exact match 0/10 (0.0 %)$' held.err || fail "no count: $(cat held.err)"
grep -q '^  c[01] *0/' held.err || fail "no count by category: $(cat held.err)"
contains "$(sed -n 1p held.jsonl)" '"reference":"It is'
contains "$(sed -n 1p held.jsonl)" '"exact_match":false'

# --- References in a file: what the model says is what it should say ------------------------------
cat >reference.jsonl <<END
{"prompt": "Say", "completion": $(field text <<<"$line")}
{"prompt": "Say", "completion": "something that it never says"}
END
"$LATHE" generate --model model --input reference.jsonl --max-new-tokens 8 --greedy --json 2>counted.err >/dev/null
grep -q '^exact match 1/2 (50.0 %)$' counted.err || fail "exact match: $(cat counted.err)"

# --- Refusals -------------------------------------------------------------------------------------
refuse 2 "one of --prompt" --model model
refuse 2 "only one" --model model --prompt a --instruction b
refuse 2 "--context goes with" --model model --prompt a --context b
refuse 2 "--greedy excludes" --model model --prompt a --greedy --top-k 5
refuse 2 "did you mean" --model model --promt a
refuse 2 "temperature" --model model --prompt a --temperature -1
refuse 2 "--template" --model model --instruction "Say."
refuse 2 "### Instruction:" --model model --instruction "Say." --template dolly
refuse 2 "prompt is empty" --model model --prompt ""
refuse 1 "no room" --model model --prompt "$(seq 100 | tr '\n' ' ')"
printf '{"prompt": "a"}\n{"prompt": \n' >bad.jsonl
refuse 1 "bad.jsonl:2" --model model --input bad.jsonl
refuse 1 "nowhere" --model nowhere --prompt a
head -c 300 data.h5 >short.h5
refuse 1 "short.h5" --model model --data short.h5
cp -r model mismatched
"$LATHE" tokenizer train --input records.jsonl --vocab-size 310 --output other >/dev/null
cp other/tokenizer.json mismatched/
refuse 2 "do not match" --model mismatched --prompt a
if [ -w /dev/full ]; then
    code=0
    "$LATHE" generate --model model --prompt Say --max-new-tokens 4 >/dev/full 2>err.txt || code=$?
    equal "$code" 1 "exit code when the output can not be written"
    contains "$(cat err.txt)" "standard output"
fi

# --- Ctrl-C ends politely -------------------------------------------------------------------------
# greedy: one of the first tokens again and again, where a sampled answer may end by itself before the signal
"$LATHE" init --family gpt2 --layers 4 --hidden-size 256 --heads 4 --max-position 100000 \
    --tokenizer tokenizer --output slow --seed 3 >/dev/null
"$LATHE" generate --model slow --prompt Say --max-new-tokens 0 >endless.txt 2>endless.err &
pid=$!
for _ in $(seq 1000); do [ -s endless.txt ] && break; sleep 0.01; done
kill -INT "$pid"
code=0
wait "$pid" || code=$?
equal "$code" 130 "exit code after Ctrl-C ($(cat endless.err))"
contains "$(cat endless.err)" "interrupted"
echo "generate: all well"
