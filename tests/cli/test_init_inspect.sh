#!/usr/bin/env bash
# lathe init makes directories that lathe inspect reads back; inspect judges files of every kind.
source "$(dirname "$0")/common.sh"
golden=${LATHE_SOURCE_DIR:?the source directory}/tests/golden

# succeed NAME PATTERN COMMAND...: exit 0 and a line of stdout matches
succeed() {
    local name=$1 pattern=$2
    shift 2
    "$@" >out.txt 2>err.txt || fail "$name: exit $?: $(cat err.txt)"
    grep -qE -- "$pattern" out.txt || fail "$name: no line matches '$pattern': $(head -c 600 out.txt)"
}

tok=$golden/dolly
init=("$lathe" init --tokenizer "$tok")

# --- Every family, there and back -------------------------------------------------------------------------------------
for family in gpt2 gpt_neox llama mistral qwen2 qwen3; do
    succeed "init $family" '^parameters +[0-9]+$' "${init[@]}" --family $family --layers 2 --hidden-size 64 \
        --max-position 32 --output "$family"
    parameters=$(grep '^parameters' out.txt)
    succeed "inspect $family" "^$parameters\$" "$lathe" inspect "$family"
    grep -q "^family  *$family " out.txt || fail "inspect $family: $(head -3 out.txt)"
    for file in config.json generation_config.json model.safetensors tokenizer.json; do
        [ -s "$family/$file" ] || fail "init $family: no $file"
    done
    "$lathe" init --help | grep "$family" >/dev/null || fail "init --help does not name $family"
done

succeed 'own sizes' '4 heads \(2 key/value\) of 16, intermediate 96' "${init[@]}" --family llama --layers 1 \
    --hidden-size 64 --heads 4 --kv-heads 2 --intermediate-size 96 --output own
succeed 'preset' '4 layers, hidden 128' "${init[@]}" --preset gpt2-tiny --output preset --dtype bf16
succeed 'bf16 tensors' 'BF16 +\[128, 384\]' "$lathe" inspect preset --stats
succeed 'deep output' '^made' "${init[@]}" --preset llama-tiny --output deep/er/model

# a disk that is full, here by a limit on files: an error that is told, and nothing is left
(ulimit -f 1 && ! "${init[@]}" --preset gpt2-tiny --output full >out.txt 2>err.txt) || fail 'a full disk: no error'
[ "$(grep -c '^lathe: error: .*full' err.txt)" = 1 ] || fail "a full disk: $(cat err.txt)"
compgen -G 'full*' >/dev/null && fail "a full disk: left $(echo full*)"

# the weights are a function of the seed
succeed 'seed 1' 'seed 1' "${init[@]}" --preset gpt2-tiny --seed 1 --output s1
succeed 'seed 1 again' 'seed 1' "${init[@]}" --preset gpt2-tiny --seed 1 --output s1b
succeed 'seed 2' 'seed 2' "${init[@]}" --preset gpt2-tiny --seed 2 --output s2
cmp -s s1/model.safetensors s1b/model.safetensors || fail 'the same seed gave other weights'
cmp -s s1/model.safetensors s2/model.safetensors && fail 'another seed gave the same weights'

# --- What init refuses ------------------------------------------------------------------------------------------------
refuse 'full directory' 2 'gpt2: .*not empty' "${init[@]}" --preset gpt2-tiny --output gpt2
touch plain
refuse 'a file in the way' 2 'plain: .*not a directory' "${init[@]}" --preset gpt2-tiny --output plain
refuse 'unknown preset' 2 "did you mean 'gpt2-tiny'" "${init[@]}" --preset gpt2-tini --output x
refuse 'unknown family' 2 'gpt3' "${init[@]}" --family gpt3 --output x
refuse 'no family' 2 'family or a preset' "${init[@]}" --output x
refuse 'another family' 2 'pythia-70m is of family gpt_neox' "${init[@]}" --family gpt2 --preset pythia-70m --output x
refuse 'heads that do not divide' 2 'divisible' "${init[@]}" --family gpt2 --hidden-size 64 --heads 5 --output x
refuse 'kv heads that do not divide' 2 'key/value' "${init[@]}" --preset llama-tiny --kv-heads 3 --output x
refuse 'no layers' 2 'layers' "${init[@]}" --preset gpt2-tiny --layers 0 --output x
refuse 'no tokenizer' 1 'nowhere' "$lathe" init --preset gpt2-tiny --tokenizer nowhere --output x
refuse 'beyond all memory' 1 'not enough memory: .*available' "${init[@]}" --family gpt2 --layers 1024 \
    --hidden-size 1048576 --output x
[ -e x ] && fail 'x was made'
ls -d x.tmp* >/dev/null 2>&1 && fail 'a temporary of x was left'

# --- inspect ----------------------------------------------------------------------------------------------------------
for model in "$golden"/models/*; do
    succeed "inspect $(basename "$model")" '^family' "$lathe" inspect "$model"
done
succeed 'one file' 'safetensors' "$lathe" inspect gpt2/model.safetensors
grep -q 'metadata  *format: pt' out.txt || fail 'metadata is not shown'
succeed 'stats' 'ln_f.weight +F32 +\[64\] +256 +min 1 +max 1 +mean 1 *$' "$lathe" inspect gpt2 --stats
succeed 'GGUF' 'q4_k.blocks +Q4_K +\[11, 256\] +1584$' "$lathe" inspect "$golden/gguf/quants.gguf"
grep -q '^  test.strings .*3 of \["", "a", ' out.txt || fail 'key-values are not shown'

refuse 'nothing there' 1 'nowhere' "$lathe" inspect nowhere
refuse 'no path' 2 'one path' "$lathe" inspect
refuse 'an empty file' 1 'plain' "$lathe" inspect plain
cp -r gpt2 cut
truncate -s -5 cut/model.safetensors
refuse 'cut short' 1 'cut/model.safetensors: tensor ".*cut short' "$lathe" inspect cut
cp -r gpt2 wrong
sed -i 's/"n_embd": 64/"n_embd": 32/' wrong/config.json
refuse 'another shape' 1 'wrong/model.safetensors: tensor "transformer.wte.weight" has shape' "$lathe" inspect wrong
sed -i 's/GPT2LMHeadModel/BertModel/' wrong/config.json
refuse 'another architecture' 1 'BertModel' "$lathe" inspect wrong
printf '\20\0\0\0\0\0\0\0{"a":{"dtype":[[' >hostile.safetensors
refuse 'hostile' 1 'hostile.safetensors: the header is not valid JSON' "$lathe" inspect hostile.safetensors
printf 'GGUF\3\0\0\0\377\377\377\377\377\377\377\377\0\0\0\0\0\0\0\0' >hostile.gguf
refuse 'hostile GGUF' 1 'hostile.gguf: .*at most' "$lathe" inspect hostile.gguf

[ $failures -eq 0 ] && echo 'all passed'
exit $((failures > 0))
