#!/usr/bin/env bash
# lathe score on a tiny model whose log-probabilities transformers 5.23.0 gave (see
# tests/golden/make_model_golden.py): table, JSON, the likeliest tokens, and what is refused.
set -u
model="$LATHE_SOURCE_DIR/tests/golden/models/gpt2"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

fail() {
    echo "FAIL: $1"
    sed 's/^/    /' "$work/out" "$work/err" | head -n 30
    failures=$((failures + 1))
}

run() { # WANTED_EXIT_CODE ARGUMENTS...
    local wanted=$1
    shift
    "$LATHE" score "$@" >"$work/out" 2>"$work/err"
    local code=$?
    [ $code -eq "$wanted" ] || fail "lathe score $*: exit code $code, not $wanted"
}

shows() { grep -qE -- "$1" "$work/out" || fail "the output lacks: $1"; }
complains() {
    grep -qE -- "$1" "$work/err" || fail "the message lacks: $1"
    [ ! -s "$work/out" ] || fail "output beside an error"
}

run 0 --model "$model" --ids "5 17 3 29 8"
shows '^ +0 +5 +-'
shows '^ +1 +17 +-2\.4673'
shows '^ +4 +8 +-4\.3288'
shows '^sum -15\.6019 over 4 tokens, perplexity 49\.425'

run 0 --model "$model" --ids "5,17,3,29,8" --top 2 --json
shows '"sum": -15\.60188'
shows '"perplexity": 49\.425'
tr -d ' \n' <"$work/out" >"$work/flat"
mv "$work/flat" "$work/out"
shows '"ids":\[5,17,3,29,8\]'
shows '"log_probabilities":\[null,-2\.46725[0-9]*,-5\.41235[0-9]*,-3\.39346[0-9]*,-4\.32880[0-9]*\]'
shows '"top":\[null,\[\{"id":17,"token":null,"log_probability":-2\.46725[0-9]*\},\{"id":46,'
shows '\[\{"id":15,"token":null,"log_probability":-2\.5988[0-9]*\},\{"id":30,[^]]*\]\]'

# the same log-probabilities whether or not every logit is looked at
run 0 --model "$model" --ids "5 17 3 29 8" --json
shows '"sum": -15\.60188'

# a token in front makes the first one count
run 0 --model "$model" --ids "5 17" --bos
shows '^ +0 +0 +-'
shows 'over 2 tokens'
run 0 --model "$model" --ids "0 5 17" --bos
shows 'over 2 tokens'

# one token has nothing before it
run 0 --model "$model" --ids 7 --json
shows '"perplexity": null'

run 2 --model "$model"
complains 'one of --text, --ids, --input and --messages'
run 2 --model "$model" --ids "1 2" --text x
complains 'one of --text, --ids, --input and --messages'
run 2 --model "$model" --ids "1 two 3"
complains 'two.* is not a token id'
run 2 --model "$model" --ids "1 53 3"
complains 'token id 53 .*vocabulary of 53'
run 2 --model "$model" --ids ""
complains 'nothing to score'
run 1 --model "$model" --ids "$(seq -s ' ' 1 25)"
complains '25 tokens are too many: the model sees 24'
run 1 --model "$work/nowhere" --ids 1
complains nowhere
run 2 --ids 1
complains model

if [ -n "${LATHE_TEST_ASSETS:-}" ]; then
    stories="$LATHE_TEST_ASSETS/models/stories260K"
    printf 'Once upon a time, there was a little girl named Lily.' >"$work/story.txt"
    run 0 --model "$stories" --input "$work/story.txt"
    shows '^ +0 +1 +-'  # the tokenizer puts <s> in front
    shows '^ +1 +403 +-0\.'
    cp "$work/out" "$work/from_file"
    run 0 --model "$stories" --text "$(cat "$work/story.txt")"
    cmp -s "$work/out" "$work/from_file" || fail "--text and --input differ"
else
    echo "LATHE_TEST_ASSETS is not set: scoring text with a trained model is not tried"
fi

[ $failures -eq 0 ] && echo "lathe score: all as expected"
exit $((failures > 0))
