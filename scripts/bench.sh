#!/usr/bin/env bash
# Measures Lathe, and beside it, in the same run on the same machine, the peers that are at hand: tokenizer, matrix
# product, attention and the other operations, training step, decoding, evaluation, quantisation, several
# processes. Figures are only worth something on a machine that does nothing else.
#
#   scripts/bench.sh [--peer NAME=PATH]... [--quick] [--tokenizer DIR] [--text FILE.jsonl]
#
# Peers; one that is not given is named and skipped:
#   llm.c=DIR        a built folder of karpathy/llm.c, with its train_gpt2 (CPU), gpt2_124M.bin and token files in place
#   tokenizers=PY    a Python with Hugging Face's `tokenizers` (it is run with one thread)
#   torch=PY         a Python with PyTorch: its float32 matrix product
#   peft=PY          a Python with PyTorch, transformers and peft: its LoRA training step
#   lm-eval=PY       a Python with PyTorch, transformers and lm-evaluation-harness: the same evaluation
#   llama-quantize=PROGRAM   llama.cpp's: the same GGUF files
set -euo pipefail
cd "$(dirname "$0")/.."

declare -A peer=()
quick= tokenizer= text=scripts/sample_data/assistant.jsonl
while [ $# -gt 0 ]; do
    case $1 in
    --peer)
        case ${2:-} in
        llm.c=* | tokenizers=* | torch=* | peft=* | lm-eval=* | llama-quantize=*) peer[${2%%=*}]=${2#*=} ;;
        *) echo "bench: --peer takes llm.c=DIR, llama-quantize=PROGRAM, or tokenizers, torch, peft or lm-eval=PYTHON" >&2; exit 2 ;;
        esac
        shift
        ;;
    --tokenizer) tokenizer=${2:?--tokenizer needs a directory}; shift ;;
    --text) text=${2:?--text needs a file}; shift ;;
    --quick) quick=--quick ;;
    --help | -h) sed -n '2,16s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "bench: unknown option $1 (see --help)" >&2; exit 2 ;;
    esac
    shift
done

scripts/setup.sh >/dev/null
cmake -S . -B build/release -DCMAKE_BUILD_TYPE=Release >/dev/null
cmake --build build/release --parallel "$(nproc)" | tail -n 1
bench=build/release/tests
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)} GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-2000}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
skipped() { echo "  $1: skipped, not given (--peer $1=$2)"; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'; } # A B: A / B

echo
echo "machine: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $OMP_NUM_THREADS threads, load $(cut -d' ' -f1 /proc/loadavg)"
echo "commit:  $(git rev-parse --short HEAD 2>/dev/null || echo unknown), $(date -u +%F)"

echo
echo "== Tokenizer (one thread, every string of $text)"
if [ -z "$tokenizer" ]; then
    tokenizer=$work/tokenizer
    build/release/lathe tokenizer train --input "$text" --vocab-size 8000 --output "$tokenizer" >/dev/null
fi
OMP_NUM_THREADS=1 "$bench/bench_tokenizer" "$tokenizer" "$text" | tee "$work/tokenizer.txt"
if [ -n "${peer[tokenizers]:-}" ]; then
    cat >"$work/peer.py" <<'END'
import json, sys, time
from tokenizers import Tokenizer, __version__

def strings(value):
    if isinstance(value, str): yield value
    elif isinstance(value, dict):
        for v in value.values(): yield from strings(v)
    elif isinstance(value, list):
        for v in value: yield from strings(v)

texts = [s for line in open(sys.argv[2], encoding="utf-8") if line.strip() for s in strings(json.loads(line))]
size = sum(len(t.encode()) for t in texts)
best = 1e30
for _ in range(3):
    tokenizer = Tokenizer.from_file(sys.argv[1] + "/tokenizer.json")  # a fresh cache each time
    start = time.perf_counter()
    for at in range(0, len(texts), 1000):
        tokenizer.encode_batch_fast(texts[at:at + 1000], add_special_tokens=False)
    best = min(best, time.perf_counter() - start)
print(f"  tokenizers {__version__}: {size / best / 1e6:.1f} MB/s")
END
    TOKENIZERS_PARALLELISM=false RAYON_NUM_THREADS=1 "${peer[tokenizers]}" "$work/peer.py" "$tokenizer" "$text" |
        tee "$work/tokenizer-peer.txt"
    ours=$(grep -oE '[0-9.]+ MB/s' "$work/tokenizer.txt" | head -n 1)
    theirs=$(grep -oE '[0-9.]+ MB/s' "$work/tokenizer-peer.txt")
    echo "  ratio: $(ratio "${ours% *}" "${theirs% *}") times as fast"
else
    skipped tokenizers PYTHON
fi

echo
echo "== Matrix product (f32)"
"$bench/bench_matmul" $quick
if [ -n "${peer[torch]:-}" ]; then
    "${peer[torch]}" - "$OMP_NUM_THREADS" <<'END'
import sys, time, torch
torch.set_num_threads(int(sys.argv[1]))
for m, n, k in [(256, 2304, 768), (256, 3072, 768), (256, 768, 3072), (1024, 3072, 768), (1024, 1024, 1024)]:
    x, w = torch.randn(m, k), torch.randn(n, k)
    best = 1e30
    for _ in range(20):
        start = time.perf_counter()
        torch.nn.functional.linear(x, w)
        best = min(best, time.perf_counter() - start)
    print(f"  torch {torch.__version__}  NT {m:5} {n:6} {k:5} {2 * m * n * k / best / 1e9:8.1f} GFLOP/s")
END
else
    skipped torch PYTHON
fi

echo
echo "== Attention and the other operations"
"$bench/bench_kernels" $quick

echo
echo "== Training step: GPT-2 124M, batch 4 x 64 tokens, f32"
"$bench/bench_train_step" gpt2-124m 4 64 15 | tee "$work/step.txt"
if [ -n "${peer[llm.c]:-}" ]; then
    # the median, as ours; its first step touches the memory and does not count, and it never ends by itself
    (cd "${peer[llm.c]}" && timeout 60 stdbuf -oL ./train_gpt2 2>/dev/null || true) | grep -oE 'took [0-9.]+' |
        sed 1d | cut -d' ' -f2 | sort -n | awk '{ t[NR] = $1 } END { print t[int(NR / 2) + 1] / 1000 }' >"$work/step-peer.txt"
    ours=$(grep -oE '[0-9.]+ s \(' "$work/step.txt" | head -n 1 | cut -d' ' -f1)
    theirs=$(cat "$work/step-peer.txt")
    echo "  llm.c train_gpt2.c: $theirs s; ratio: $(ratio "$theirs" "$ours") times as fast"
else
    skipped llm.c DIR
fi

echo
echo "== Training steps of every method: GPT-2 124M, batch 4 x 64 tokens, rank 8 on all linear modules, 20 virtual tokens"
"$bench/bench_train_step" gpt2-124m 4 64 15 full lora lora-bf16 dora prefix prompt | grep '^train step' | tee "$work/methods.txt"
if [ -n "${peer[peft]:-}" ]; then
    cat >"$work/peer.py" <<'END'
import statistics, sys, time, warnings
import peft, torch, transformers
warnings.simplefilter("ignore")
torch.set_num_threads(int(sys.argv[1]))
torch.manual_seed(1)
config = transformers.GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
lora = peft.LoraConfig(r=8, lora_alpha=16, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True,
                       task_type="CAUSAL_LM")
model = peft.get_peft_model(transformers.GPT2LMHeadModel(config), lora)
model.train()
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-4)
ids = torch.randint(0, 50257, (4, 65))
times = []
for step in range(12):
    start = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    logits = model(input_ids=ids[:, :-1]).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    times.append(time.perf_counter() - start)
print(f"  peft {peft.__version__}, torch {torch.__version__}: LoRA step {statistics.median(times[2:]):.3f} s")
END
    "${peer[peft]}" "$work/peer.py" "$OMP_NUM_THREADS" 2>/dev/null | tee "$work/methods-peer.txt"
    ours=$(sed -nE 's/.* lora, .*: ([0-9.]+) s \(.*/\1/p' "$work/methods.txt")
    theirs=$(sed -nE 's/.*LoRA step ([0-9.]+) s/\1/p' "$work/methods-peer.txt")
    echo "  ratio: $(ratio "$theirs" "$ours") times as fast"
else
    skipped peft PYTHON
fi

echo
echo "== Decoding: GPT-2 124M, f32"
"$bench/bench_decode" gpt2-124m 1
"$bench/bench_decode" gpt2-124m 8

echo
echo "== Evaluation: log-likelihoods, GPT-2 124M's shape, f32"
tests/bench/bench_evaluation.sh build/release/lathe "$tokenizer" "${peer[lm-eval]:-}"
[ -n "${peer[lm-eval]:-}" ] || skipped lm-eval PYTHON

echo
echo "== GGUF: encoding and decoding, and exports of GPT-2 124M's shape from f32"
tests/bench/bench_gguf.sh build/release/lathe "$bench/bench_quants" "$tokenizer" "${peer[llama-quantize]:-}"
[ -n "${peer[llama-quantize]:-}" ] || skipped llama-quantize PROGRAM

echo
echo "== Several processes: GPT-2 of 6 blocks and 256 channels, f32"
tests/bench/bench_processes.sh build/release/lathe "$bench" $quick
