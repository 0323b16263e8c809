#!/usr/bin/env bash
# lathe generate on real models, found under LATHE_TEST_ASSETS: the greedy text of stories260K is known.
set -euo pipefail
: "${LATHE:?path of the lathe binary}"
models=${LATHE_TEST_ASSETS:-}/models
if [ -z "${LATHE_TEST_ASSETS:-}" ] || [ ! -d "$models/stories260K" ]; then
    echo "skipped: LATHE_TEST_ASSETS names no folder with models/stories260K"
    exit 77
fi
fail() { echo "FAIL: $*" >&2; exit 1; }

expected=$models/stories260K/expected_greedy.json
wanted=$(tr -d ' \n' <"$expected" | sed 's/.*"greedy_new_ids":\[\([0-9,]*\)\].*/\1/')
wanted_text=$(sed -n 's/^ "text": \(".*"\),$/\1/p' "$expected")
count=$(tr ',' '\n' <<<"$wanted" | wc -l)
[ "$count" -ge 100 ] || fail "expected_greedy.json was not understood"

line=$("$LATHE" generate --model "$models/stories260K" --prompt "" --greedy --max-new-tokens "$count" --json --quiet)
ids=$(sed 's/.*"ids":\[\([0-9,]*\)\].*/\1/' <<<"$line")
[ "$ids" = "$wanted" ] || fail "greedy ids of stories260K: $ids"
case $line in *"\"text\":$wanted_text"*) ;; *) fail "greedy text of stories260K: $line" ;; esac

# streamed, it is the same text
streamed=$("$LATHE" generate --model "$models/stories260K" --prompt "" --greedy --max-new-tokens "$count" --quiet)
[ "$streamed" = "$(printf '%b' "$(sed 's/^"//; s/"$//; s/\\"/"/g' <<<"$wanted_text")")" ] || fail "streamed text: $streamed"

"$LATHE" generate --model "$models/tiny-gpt2-medical" --prompt "The patient" --greedy --max-new-tokens 5 --json --quiet |
    grep -q '"new_tokens":5' || fail "tiny-gpt2-medical"
echo "generate on real models: all well"
