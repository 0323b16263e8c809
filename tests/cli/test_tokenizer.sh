#!/usr/bin/env bash
# lathe tokenizer as a user meets it: train, encode, decode; wrong use is refused with one line and nothing is left behind.
source "$(dirname "$0")/common.sh"

# same NAME EXPECTED GOT
same() {
    [ "$2" = "$3" ] || fail "$1: expected '$2', got '$3'"
}

for i in $(seq 60); do
    printf 'The small boat number %d went over the water, and the wind was with it.\n\n  na\xc3\xafve \xe2\x80\x94 \xe6\xbc\xa2\xe5\xad\x97\n' "$i"
done >text.txt
printf '{"instruction": "Where did the boat go?", "n": 3, "response": "Over the water."}\n\n{"messages": [{"content": "the boat, the boat"}]}\n' >records.jsonl

# --- train --------------------------------------------------------------------------------------------------------------
"$lathe" tokenizer train --input text.txt records.jsonl --vocab-size 300 --output tok >train.txt || fail "train"
grep -q 'vocabulary   300 tokens' train.txt || fail "train says: $(cat train.txt)"
[ -f tok/tokenizer.json ] && [ -f tok/tokenizer_config.json ] && [ -f tok/special_tokens_map.json ] || fail "files are missing: $(ls tok)"
grep -q '"<|endoftext|>"' tok/special_tokens_map.json || fail "no end-of-text token"
for threads in 1 3; do
    "$lathe" tokenizer train --input text.txt records.jsonl --vocab-size 300 --threads $threads --output "tok$threads" >/dev/null || fail "train $threads"
    cmp tok/tokenizer.json "tok$threads/tokenizer.json" || fail "the result depends on the number of threads"
done
"$lathe" tokenizer train --input records.jsonl --vocab-size 5000 --special-tokens '<|end|>' '<|pad|>' --output few >few.txt || fail "train few"
grep -q 'fewer than the 5000' few.txt || fail "a vocabulary that came out smaller is not mentioned"
same "special tokens come first" "0 1" "$("$lathe" tokenizer encode --tokenizer few '<|end|><|pad|>')"

# --- encode and decode --------------------------------------------------------------------------------------------------
ids=$("$lathe" tokenizer encode --tokenizer tok "The boat went.")
same "one line of ids" 1 "$(printf '%s\n' "$ids" | grep -cE '^[0-9]+( [0-9]+)*$')"
# shellcheck disable=SC2086
same "decode" "The boat went." "$("$lathe" tokenizer decode --tokenizer tok $ids)"
same "ids in one word" "The boat went." "$("$lathe" tokenizer decode --tokenizer tok "$ids")"
same "a file is a tokenizer too" "$ids" "$("$lathe" tokenizer encode --tokenizer tok/tokenizer.json "The boat went.")"
same "several words are one text" "$ids" "$("$lathe" tokenizer encode --tokenizer tok The boat went.)"
same "standard input" "$ids" "$(printf 'The boat went.' | "$lathe" tokenizer encode --tokenizer tok)"
same "after --" "$("$lathe" tokenizer encode --tokenizer tok --input <(printf -- '--a'))" "$("$lathe" tokenizer encode --tokenizer tok -- --a)"
same "empty text" "" "$("$lathe" tokenizer encode --tokenizer tok '')"
same "special" "0" "$("$lathe" tokenizer encode --tokenizer tok '<|endoftext|>')"
same "skip special" "ab" "$("$lathe" tokenizer encode --tokenizer tok 'a<|endoftext|>b' | "$lathe" tokenizer decode --tokenizer tok --skip-special)"
"$lathe" tokenizer encode --tokenizer tok --input text.txt >ids.txt || fail "encode a file"
same "all ids on one line" 1 "$(wc -l <ids.txt)"
"$lathe" tokenizer decode --tokenizer tok <ids.txt | cmp - text.txt || fail "round trip of a file"

# a template around texts: --special
cat >around.json <<'END'
{"version": "1.0", "added_tokens": [
  {"id": 3, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
 "normalizer": null, "pre_tokenizer": null, "decoder": {"type": "Fuse"},
 "post_processor": {"type": "TemplateProcessing",
  "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
  "special_tokens": {"<s>": {"id": "<s>", "ids": [3], "tokens": ["<s>"]}}},
 "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<s>": 3}, "merges": ["a b"]}}
END
same "without --special" "2 0" "$("$lathe" tokenizer encode --tokenizer around.json aba)"
same "with --special" "3 2 0" "$("$lathe" tokenizer encode --tokenizer around.json --special aba)"

# --- wrong use ----------------------------------------------------------------------------------------------------------
refuse "output not empty" 2 'tok: .*not empty' "$lathe" tokenizer train --input text.txt --vocab-size 300 --output tok
refuse "no such input" 1 'nothing.txt' "$lathe" tokenizer train --input nothing.txt --vocab-size 300 --output new
printf 'ok\xff' >bad.txt
refuse "input not UTF-8" 1 'bad.txt: not UTF-8 at byte 2' "$lathe" tokenizer train --input bad.txt --vocab-size 300 --output new
printf '{"a": "b"}\n{"a": \n' >bad.jsonl
refuse "bad record" 1 'bad.jsonl:2' "$lathe" tokenizer train --input bad.jsonl --vocab-size 300 --output new
: >empty.txt
refuse "empty input" 1 'no text' "$lathe" tokenizer train --input empty.txt --vocab-size 300 --output new
refuse "vocabulary too small" 2 'vocab-size' "$lathe" tokenizer train --input text.txt --vocab-size 100 --output new
refuse "no room for specials" 2 'at least 258' "$lathe" tokenizer train --input text.txt --vocab-size 257 --special-tokens a1 b1 --output new
refuse "missing flag" 2 'vocab-size' "$lathe" tokenizer train --input text.txt --output new
[ ! -e new ] || fail "a failed training left 'new' behind"
[ -z "$(find . -name '*.tmp*')" ] || fail "temporary files are left: $(find . -name '*.tmp*')"
refuse "unknown command" 2 "did you mean 'encode'" "$lathe" tokenizer encod
"$lathe" tokenizer >out.txt 2>err.txt
same "no command" "2 and usage: lathe tokenizer" "$? and $(grep -o 'usage: lathe tokenizer' err.txt)"
[ ! -s out.txt ] || fail "no command: printed something"
refuse "no tokenizer" 1 'absent' "$lathe" tokenizer encode --tokenizer absent a
refuse "empty directory" 1 'tokenizer.json' "$lathe" tokenizer encode --tokenizer "$dir/$(mkdir void && echo void)" a
refuse "text not UTF-8" 1 'bad.txt: .*not UTF-8 at byte 2' "$lathe" tokenizer encode --tokenizer tok --input bad.txt
refuse "text twice" 2 'not both' "$lathe" tokenizer encode --tokenizer tok --input text.txt a
refuse "not an id" 2 '"5x" is not' "$lathe" tokenizer decode --tokenizer tok 5 5x
refuse "unknown id" 1 '300 is not in the vocabulary' "$lathe" tokenizer decode --tokenizer tok 300
refuse "not a character of it" 1 'U\+0063' "$lathe" tokenizer encode --tokenizer around.json c
printf '{"model": ' >cut.json
refuse "cut short" 1 'cut.json' "$lathe" tokenizer encode --tokenizer cut.json a
sed 's/"pre_tokenizer": null/"pre_tokenizer": {"type": "Martian"}/' around.json >martian.json
refuse "unknown pre-tokenizer" 1 'Martian' "$lathe" tokenizer encode --tokenizer martian.json a

"$lathe" tokenizer --help | grep 'train' >/dev/null || fail "help"
"$lathe" tokenizer train --help | grep -- '--vocab-size' >/dev/null || fail "train help"

[ $failures -eq 0 ] || exit 1
echo "tokenizer: all good"
