#!/usr/bin/env bash
# Evaluation by log-likelihoods, beside lm-evaluation-harness.
#
#   tests/bench/bench_evaluation.sh LATHE TOKENIZER [PYTHON]
#
# A model of GPT-2 124M's shape with fresh weights, in f32; 64 questions with 5 examples each and one answer, then 64 with 10
# examples and four answers, which share their question. PYTHON, with PyTorch, transformers and lm_eval, scores the same files
# by the same description (the YAML that lathe eval writes); opening the model counts for Lathe only.
set -euo pipefail
lathe=$(realpath "${1:?the program}") tokenizer=$(realpath "${2:?a tokenizer}") python=${3:-}
cd "$(dirname "$0")/../.."
text=scripts/sample_data/assistant.jsonl
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)} GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-2000}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

chars='([^"\\]|\\.)*'
sed -nE "s/.*\"instruction\": (\"$chars\").*\"response\": \"($chars)\".*/{\"context\": \1, \"continuation\": \" \3\"}/p" "$text" |
    sed -n 1,64p >"$work/questions.jsonl"
# an answer, and those to the three records before
sed -nE "s/.*\"instruction\": \"($chars)\", \"context\": \"($chars)\".*\"response\": (\"$chars\").*/\"\1 \3\"\t\5/p" "$text" |
    awk -F '\t' '{ answer[NR] = $2; sub(/ "$/, "\"", $1) } # some have no text
        NR > 3 && NR <= 67 { printf "{\"query\": %s, \"choices\": [%s, %s, %s, %s], \"gold\": 0}\n",
            $1, $2, answer[NR - 1], answer[NR - 2], answer[NR - 3] }' >"$work/choices.jsonl"
cat >"$work/peer.py" <<'END_OF_PEER'
import logging, sys, time
logging.disable(logging.WARNING)
import lm_eval, torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
threads, path, include, task, examples, metric = sys.argv[1:]
torch.set_num_threads(int(threads))
model = HFLM(pretrained=path, dtype="float32", device="cpu", batch_size=8)
tasks = TaskManager(include_path=include, include_defaults=False)
start = time.perf_counter()
found = lm_eval.simple_evaluate(model, tasks=[task], task_manager=tasks, num_fewshot=int(examples), bootstrap_iters=0)
seconds = time.perf_counter() - start
print(f"  lm-eval {lm_eval.__version__}, torch {torch.__version__}: {seconds:.2f} s, "
      f"{metric} {found['results'][task][metric + ',none']:.6g}")
END_OF_PEER

"$lathe" init --preset gpt2-124m --tokenizer "$tokenizer" --output "$work/model" --seed 1 >/dev/null
evaluate() { # TASK EXAMPLES METRIC
    figure() { sed -nE "s/.*\"$1\": \"?([-+0-9.e]+).*/\1/p" "$work/results.json" | sed -n 1p; }
    "$lathe" eval --model "$work/model" --tasks "$work/$1.jsonl" --num-fewshot "$2" --output "$work/$1" --json \
        >"$work/results.json" 2>/dev/null
    ours=$(figure total_evaluation_time_seconds)
    echo "  $1, $2 examples: lathe eval: $ours s, $3 $(figure "$3,none")"
    [ -n "$python" ] || return 0
    HF_HUB_OFFLINE=1 "$python" "$work/peer.py" "$OMP_NUM_THREADS" "$work/model" "$work/$1" "$1" "$2" "$3" 2>/dev/null |
        tee "$work/peer.txt"
    sed -nE 's/.*: ([0-9.]+) s, .*/\1/p' "$work/peer.txt" |
        awk -v ours="$ours" '{ printf "  ratio: %.2f times as fast\n", $1 / ours }'
}
evaluate questions 5 perplexity
evaluate choices 10 acc
