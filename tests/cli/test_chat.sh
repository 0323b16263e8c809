#!/usr/bin/env bash
# lathe chat from a pipe and in a terminal; --template chat in prepare, train and generate; score --messages.
set -euo pipefail
source "$(dirname "$0")/train_common.sh"

lacks() { case $1 in *"$2"*) fail "'$1' contains '$2'" ;; esac; }
# refuse CODE WORDS COMMAND...: must fail with CODE and say WORDS
refuse() {
    local code=$1 words=$2 got=0
    shift 2
    "$LATHE" "$@" >out.txt 2>err.txt </dev/null || got=$?
    equal "$got" "$code" "exit code of $* ($(cat err.txt))"
    contains "$(cat err.txt)" "$words"
}
# talk CODE ARGUMENTS...: a conversation from standard input; answers in out.txt, notes in err.txt
talk() {
    local code=$1 got=0
    shift
    "$LATHE" chat --model model --max-new-tokens 6 --device cpu "$@" >out.txt 2>err.txt || got=$?
    equal "$got" "$code" "exit code of chat $* ($(cat err.txt))"
}

tokenizer=$LATHE_SOURCE_DIR/tests/golden/chat/qwen
"$LATHE" init --family gpt2 --layers 1 --hidden-size 32 --heads 2 --max-position 256 \
    --tokenizer "$tokenizer" --output model --seed 3 >/dev/null
[ -f model/chat_template.jinja ] || fail "the model has no chat template"

# --- A conversation from a pipe -------------------------------------------------------------------
printf 'Hi\n' | talk 0
first=$(cat out.txt)
lacks "$first" ">"
# the same as generate gives for the whole prompt
equal "$first" "$("$LATHE" generate --model model --instruction Hi --max-new-tokens 6 --quiet --device cpu)" "chat and generate"

printf 'Hi\n/save a.json\nHow tall?\n/save b.json\n' | talk 0
equal "$(tr -d ' \n' <a.json | head -c 50)" '[{"role":"user","content":"Hi"},{"role":"assistant' a.json
equal "$(grep -c '"role"' b.json)" 4 "messages in b.json"
both=$(cat out.txt)
# what was saved is what generate would be asked
printf '{"messages":[%s,{"role":"user","content":"How tall?"}]}\n' "$(sed '1d;$d' a.json | tr '\n' ' ')" >asked.jsonl
second=$("$LATHE" generate --model model --input asked.jsonl --max-new-tokens 6 --quiet --device cpu)
equal "$both" "$first"$'\n'"$second" "two answers"
# and goes on from there
printf '/load a.json\nHow tall?\n' | talk 0
equal "$(cat out.txt)" "$second" "answer after /load"
contains "$(cat err.txt)" "2 messages from a.json"

# --- Commands -------------------------------------------------------------------------------------
before=$(cksum <a.json)
printf 'Hi\n/save a.json\n' | talk 1
contains "$(cat err.txt)" "a.json exists; /save! a.json replaces it"
equal "$(cksum <a.json)" "$before" "a.json after a refused /save"
printf 'Bye\n/save! a.json\n' | talk 0
contains "$(cat a.json)" Bye
printf 'Hi\n/reset\nHi\n/save r.json\n' | talk 0
equal "$(cat out.txt)" "$first"$'\n'"$first" "answers before and after /reset"
equal "$(grep -c '"role"' r.json)" 2 "messages after /reset"
printf '/system Be brief.\nHi\n/reset\n/save s.json\n/system\n/save t.json\n' | talk 0
contains "$(cat s.json)" "Be brief."
equal "$(cat t.json)" "[]" "messages without a system message"
printf '/load t.json\nHi\n' | talk 0 --system "Be kind."
equal "$(cat out.txt)" "$first" "answer after an empty conversation"
printf '/save u.json\n' | talk 0 --system "Be kind."
contains "$(cat u.json)" "Be kind."
printf '/help\n' | talk 0
contains "$(cat err.txt)" "/save FILE"
printf '/quit\nHi\n' | talk 0
equal "$(cat out.txt)" "" "answers after /quit"
printf '/sav x\n' | talk 1
contains "$(cat err.txt)" "'/sav' is no command"
printf '/load missing.json\nHi\n' | talk 1
equal "$(cat out.txt)" "$first" "answer after a failed /load"

# --- Messages -------------------------------------------------------------------------------------
printf 'one\\\ntwo\n\n  \n"""\nthree\n\n four"""\n//five\n/save m.json\n' | talk 0
equal "$(grep -o '"content": "[^"]*"' m.json | sed -n '1p;3p;5p' | tr '\n' '|')" \
    '"content": "one\ntwo"|"content": "three\n\n four"|"content": "/five"|' "messages of several lines"
printf 'caf\xe9\nHi\n' | talk 1
contains "$(cat err.txt)" "not UTF-8"
equal "$(cat out.txt)" "$first" "answer after a bad message"
{ head -c 4000 /dev/zero | tr '\0' 7; printf '\nHi\n'; } | talk 1
contains "$(cat err.txt)" "does not fit"
equal "$(cat out.txt)" "$first" "answer after a message that is too long"
for i in $(seq 12); do echo "Tell me the number $i, which is more than $((i - 1))."; done | talk 0
contains "$(cat err.txt)" "did not fit the model and were left out"
equal "$(cat err.txt | grep -c error)" 0 "errors"
echo '[{"role":"user"}]' >bad.json
printf '/load bad.json\n' | talk 1
contains "$(cat err.txt)" "bad.json: message 1 is not an object with"
echo '{' >bad.json
printf '/load bad.json\n' | talk 1
contains "$(cat err.txt)" "bad.json"

# an answer that no text can hold (of this seed's tokens, drawn almost evenly, one is NUL) is taken back with its question
printf 'Hi\n/save nul.json\n' | talk 1 --max-new-tokens 200 --temperature 100 --seed 7
contains "$(cat err.txt)" "the assistant's message is not UTF-8 text without NUL bytes"
equal "$(cat nul.json)" "[]" "messages after an answer with NUL"
for command in chat 'generate --instruction Hi'; do # to a full disk
    got=0
    echo Hi | "$LATHE" $command --model model --max-new-tokens 6 --device cpu >/dev/full 2>err.txt || got=$?
    equal "$got" 1 "exit code of $command"
    contains "$(cat err.txt)" "can not be written to standard output"
done

# --- Templates ------------------------------------------------------------------------------------
# ask_again OPTIONS...: the answers to a question asked twice, with another one between, as two lines
ask_again() {
    rm -f again.json
    printf 'Hi\nHow tall?\nHi\n/save again.json\n' | talk 0 "$@"
    grep -A1 '"assistant"' again.json | grep content | sed -n '1p;3p'
}
again=$(ask_again --template plain)
contains "$(cat err.txt)" "each message stands alone"
equal "$(sed -n 1p <<<"$again")" "$(sed -n 2p <<<"$again")" "the same question again, alone"
again=$(ask_again --history off --system "Be kind.")
equal "$(sed -n 1p <<<"$again")" "$(sed -n 2p <<<"$again")" "the same question again, behind a system message"
ask_again --template plain --history on >/dev/null
lacks "$(cat err.txt)" "stands alone"
refuse 2 "no special token '### End', which the template dolly needs" chat --model model --template dolly
printf 'Hi\n/reset\n' | talk 0 --template chatml
lacks "$(cat err.txt)" "single questions"
"$LATHE" init --family gpt2 --layers 1 --hidden-size 32 --heads 2 --max-position 256 \
    --tokenizer "$LATHE_SOURCE_DIR/tests/golden/dolly" --output bare --seed 3 >/dev/null
refuse 2 "names a template: give --template" chat --model bare
refuse 2 "has no chat template" chat --model bare --template chat
cp -r model broken
echo '{% for x in %}' >broken/chat_template.jinja
refuse 1 "chat_template.jinja" chat --model broken
refuse 2 "no chat template" prepare --input asked.jsonl --tokenizer bare --template chat --output x.h5
refuse 2 "--greedy excludes" chat --model model --greedy --temperature 1
refuse 2 "one --adapter at a time" chat --model model --adapter a b

# --- prepare --template chat, train, generate, chat -----------------------------------------------
for i in $(seq 40); do
    echo "{\"messages\":[{\"role\":\"user\",\"content\":\"Say $i.\"},{\"role\":\"assistant\",\"content\":\"It is $i.\"}]}"
done >records.jsonl
refuse 2 "chat" prepare --input records.jsonl --tokenizer model --template chats --output data.h5
"$LATHE" prepare --input records.jsonl --tokenizer model --template chat --validation 4 --threads 2 --output data.h5 >out.txt
contains "$(cat out.txt)" "template chat"
"$LATHE" prepare --input records.jsonl --tokenizer model --template chat --validation 4 --threads 1 --output again.h5 >/dev/null
cmp data.h5 again.h5 || fail "the number of threads makes a difference"
"$LATHE" inspect data.h5 --samples 1 >out.txt
contains "$(cat out.txt)" "chat (answers end with <|im_end|>)"
contains "$(cat out.txt)" "You are a careful helper."
"$LATHE" train --model model --data data.h5 --output run --max-steps 3 --threads 1 --device cpu >train.log 2>&1 || fail "train: $(tail -2 train.log)"
contains "$(cat run/final/lathe.json)" '"template": "chat"'
"$LATHE" generate --model run/final --data data.h5 --max-new-tokens 4 --json --quiet --device cpu >out.txt 2>err.txt
equal "$(wc -l <out.txt)" 4 "held-out answers"
printf 'Hi\n' | "$LATHE" chat --model run/final --max-new-tokens 4 --device cpu >out.txt 2>err.txt || fail "chat with a tuned model"
# a record that the template refuses is named
cat >refused.jsonl <<'END'
{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}
{"messages":[{"role":"user","content":"a"},{"role":"user","content":"b"},{"role":"assistant","content":"c"}]}
END
refuse 1 "refused.jsonl:2: chat_template" prepare --input refused.jsonl --template chat --output x.h5 \
    --tokenizer "$LATHE_SOURCE_DIR/tests/golden/chat/mistral_prepend"
contains "$(cat err.txt)" "roles must alternate user/assistant"
[ ! -e x.h5 ] || fail "a dataset of refused records"

# --- score --messages -----------------------------------------------------------------------------
cat >scored.json <<'END'
[{"role":"user","content":"Hi<|im_end|>"},{"role":"assistant","content":"It is 7."}]
END
"$LATHE" score --model model --messages scored.json --device cpu >out.txt
contains "$(head -2 out.txt | tail -1)" '"<"' # of <think>
contains "$(tail -2 out.txt | head -1)" '<|im_end|>'
lacks "$(cat out.txt)" careful
"$LATHE" score --model model --messages scored.json --json --device cpu >messages.json
ids=$(tr -d '\n ' <messages.json | sed 's/.*"ids":\[\([^]]*\)\].*/\1/;s/,/ /g')
"$LATHE" score --model model --ids "$ids" --device cpu >whole.txt
tail -n +2 out.txt | grep -v '^sum' | while read -r line; do
    grep -qF -- "$line" whole.txt || fail "score --messages and score --ids differ: $line"
done
contains "$(tail -1 out.txt)" "over $(($(wc -l <out.txt) - 2)) tokens"
echo '{"messages":[{"role":"user","content":"Hi"}]}' >asked.json
refuse 1 "the assistant wrote nothing" score --model model --messages asked.json
refuse 2 "give one of" score --model model --messages asked.json --text x
refuse 2 "does not go with --messages" score --model model --messages asked.json --bos
refuse 2 "no chat template" score --model bare --messages asked.json

# --- In a terminal --------------------------------------------------------------------------------
if command -v script >/dev/null; then
    # Ctrl-C at the prompt, and in the middle of a long answer, of which a part stays; Ctrl-D leaves
    "$LATHE" init --family gpt2 --layers 2 --hidden-size 64 --heads 2 --max-position 30000 \
        --tokenizer "$tokenizer" --output long --seed 3 >/dev/null
    # exec: a shell that stays (which one is the user's choice) would itself end by the Ctrl-C that it saw
    chat="exec '$LATHE' chat --model long --max-new-tokens 0 --threads 1 --device cpu"
    # keys WAIT TEXT...: each TEXT once the terminal has shown WAIT; GROW: 40 bytes more than before
    keys() {
        local size=0
        while [ $# -gt 0 ]; do
            for _ in $(seq 600); do
                if [ "$1" = GROW ]; then
                    [ "$(wc -c <tty.txt)" -gt $((size + 40)) ] && break
                else
                    grep -qF -- "$1" tty.txt && break
                fi
                sleep 0.05
            done
            size=$(wc -c <tty.txt)
            printf "$2"
            shift 2
        done
        for _ in $(seq 200); do # the keyboard stays plugged in until the end
            grep -qF "Script done" tty.txt && break
            sleep 0.05
        done
    }
    # in_terminal COMMAND KEYS...: what the terminal showed is in tty.txt
    in_terminal() {
        local command=$1
        shift
        : >tty.txt
        keys "$@" | timeout 120 script -q -f -c "$command" tty.txt >/dev/null 2>script.txt ||
            echo "the keyboard and the terminal ended with ${PIPESTATUS[*]}: $(cat script.txt)"
        contains "$(tail -c 1000 tty.txt)" 'COMMAND_EXIT_CODE="0"' # chat's own
    }
    # a line of which the terminal drops the end is not sent
    in_terminal "$chat" '> ' '\003' 'or Ctrl-D leaves)' "$(printf '%05000d' 7)\r" 'is not sent' 'Hi\r' GROW '\003' \
        'stays in the conversation' '/save tty.json\r' 'messages in tty.json' '\004'
    contains "$(cat tty.txt)" "/help lists the commands"
    contains "$(cat tty.txt)" "drops the rest, so this message is not sent"
    equal "$(grep -c '"role"' tty.json)" 2 "messages saved in a terminal"
    equal "$(grep -A1 assistant tty.json | grep -c '"content": "."')" 0 "empty partial answers"
    # of this seed's tokens two make the control character U+0088, which a terminal would obey
    drawn="--max-new-tokens 200 --temperature 100 --seed 4"
    printf 'Hi\n' | talk 0 $drawn
    contains "$(LC_ALL=C cat -v out.txt)" 'M-BM-^H'
    in_terminal "exec '$LATHE' chat --model model --device cpu $drawn" '> ' 'Hi\r' GROW '\004'
    lacks "$(LC_ALL=C cat -v tty.txt)" 'M-BM-^H'
fi
echo "chat: all passed"
