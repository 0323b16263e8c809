#!/usr/bin/env bash
# lathe prepare and lathe inspect on datasets: what they print, exit codes, and that a failure leaves
# no file behind.
set -u
tokenizer="$LATHE_SOURCE_DIR/tests/golden/dolly"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
failures=0

fail() {
    echo "FAIL: $1"
    sed 's/^/    /' out err | head -n 40
    failures=$((failures + 1))
}

run() { # WANTED_EXIT_CODE COMMAND ARGUMENTS...
    local wanted=$1
    shift
    "$LATHE" "$@" >out 2>err
    local code=$?
    [ $code -eq "$wanted" ] || fail "lathe $*: exit code $code, not $wanted"
}

shows() { grep -qE -- "$1" out || fail "the output lacks: $1"; }
refuses() { # MESSAGE_PATTERN ARGUMENTS...: exit code 1 or 2, one message, no file
    local pattern=$1
    shift
    "$LATHE" prepare --tokenizer "$tokenizer" --output bad.h5 "$@" >out 2>err
    local code=$?
    [ $code -eq 1 ] || [ $code -eq 2 ] || fail "lathe prepare $*: exit code $code"
    grep -qE -- "^lathe: error: .*$pattern" err || fail "the message lacks: $pattern"
    [ ! -s out ] || fail "output beside an error"
    ! ls | grep bad.h5 >/dev/null || fail "a file was left: $(ls | grep bad.h5)"
}

# --- What works
run 0 prepare --help
shows '--validation FRACTION_OR_COUNT'
run 0 prepare --input "$tokenizer/records.jsonl" --tokenizer "$tokenizer" --output a.h5 --validation 5
shows 'format dolly, template dolly'
shows '3 special tokens added to the tokenizer: ### End ### Instruction: ### Response:'
shows ' 30 read'
shows ' 25 train'
shows ' 5 validation'
shows 'wrote a.h5'
run 0 inspect a.h5 --samples 2
shows 'train +25 documents'
shows 'validation +5 documents'
shows 'closed_qa'
shows '^--- train 1'
shows '^### Response:'
shows '^\[\['
shows '### End\]\]$'
run 0 prepare --input "$tokenizer/records.jsonl" --tokenizer "$tokenizer" --output b.h5 --validation 5 --threads 1
cmp -s a.h5 b.h5 || fail "one thread gives another file"

# Several files, compressed, as an array, renamed, of another template
gzip -c "$tokenizer/messages.jsonl" >m.jsonl.gz
{ echo '['; sed '$!s/$/,/' "$tokenizer/messages.jsonl"; echo ']'; } >m.json
run 0 prepare --input m.jsonl.gz m.json --tokenizer "$tokenizer" --output c.h5 --dedup
shows 'format messages, template chatml'
shows ' 8 read'
shows ' 4 dropped: duplicates'
printf '{"q":"Why?","a":"Because.","n":1}\n' >q.jsonl
run 0 prepare --input q.jsonl --columns instruction=q,response=a --tokenizer "$tokenizer" \
    --output d.h5 --template alpaca
run 0 inspect d.h5 --samples 1
shows '\[\[Because\.<\|endoftext\|>\]\]'
printf 'One.\nTwo.\nThree.\nFour.\n' >t.txt
run 0 prepare --input t.txt --tokenizer "$tokenizer" --output e.h5 --validation 0.25
run 0 inspect e.h5 --samples 1
shows '^<\|endoftext\|>\[\[One\.'
shows '^<\|endoftext\|>\[\[Four\.'

# An existing file is kept unless --force is given
cp a.h5 copy.h5
run 2 prepare --input q.jsonl --tokenizer "$tokenizer" --output a.h5
grep -q -- '--force' err || fail "--force is not mentioned"
cmp -s a.h5 copy.h5 || fail "the existing file was changed"
run 0 prepare --input "$tokenizer/records.jsonl" --tokenizer "$tokenizer" --output a.h5 --force --seed 7

# --- Bad input
good='{"instruction":"i","response":"r"}'
record() { printf '%s\n%s\n' "$good" "$1" >x.jsonl; }
record '{"instruction":"i","response":'
refuses 'x\.jsonl:2:' --input x.jsonl
record '{"instruction":"i"}'
refuses "x\.jsonl:2:.*'response'.*missing" --input x.jsonl
record '{"instruction":"","response":"r"}'
refuses "x\.jsonl:2:.*'instruction' is empty" --input x.jsonl
record '{"instruction":"i","response":""}'
refuses "x\.jsonl:2:.*'response' is empty" --input x.jsonl
record "$(printf '{"instruction":"\377","response":"r"}')"
refuses 'x\.jsonl:2: invalid UTF-8' --input x.jsonl
echo '{"messages":[{"role":"user","content":"u"}]}' >y.jsonl
refuses 'y\.jsonl:1:.*no token would be trained' --input y.jsonl
echo "$good" >z.jsonl
refuses "z\.jsonl:1:.*'output'.*alpaca.*instruction, response" --input z.jsonl --format alpaca
refuses "'instrucion'" --input z.jsonl --columns instrucion=q
refuses 'format' --input z.jsonl --format doly
refuses 'max-length' --input z.jsonl --max-length 1
refuses 'validation' --input z.jsonl --validation 1
refuses 'validation' --input z.jsonl --validation -1
refuses 'none of the 1 records is left' --input z.jsonl --max-length 8
refuses 'missing\.jsonl' --input missing.jsonl
refuses 'input' --template dolly

# --- A damaged dataset
head -c 3000 copy.h5 >cut.h5
run 1 inspect cut.h5
grep -q 'cut short' err || fail "a dataset that was cut short"
cp copy.h5 flip.h5
printf '\377' | dd of=flip.h5 bs=1 seek=4321 conv=notrunc 2>/dev/null
cmp -s copy.h5 flip.h5 || run 1 inspect flip.h5

[ $failures -eq 0 ] && echo "all as it should be"
exit $((failures > 0))
