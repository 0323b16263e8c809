#!/usr/bin/env python3
"""Checks that the adapters Lathe trains and saves are PEFT's: real peft loads them and computes the
log-probabilities that `lathe score` prints, and `lathe merge` makes a model that agrees too.

Made with peft 0.21.2, transformers 5.24.0 and torch 2.15.0:
    python tests/golden/check_adapter_roundtrip.py build/release/lathe [--keep DIR]
One line per family and method; ends with status 1 when any of them fails. No test runs this file.
"""
import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import warnings

import peft
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SAMPLE = os.path.join(ROOT, "scripts", "sample_data", "assistant.jsonl")
# The tokens that the dolly template adds: with them in the tokenizer the base has rows for them.
SPECIAL = ["<|endoftext|>", "### End", "### Instruction:", "### Response:\n"]
FAMILIES = {"gpt2": [], "gpt_neox": [], "llama": ["--kv-heads", "2"]}
LORA = "--method lora --lora-r 4 --lora-alpha 8 "
PROMPT = "--num-virtual-tokens 8 --method "
METHODS = {
    "lora, all linear": LORA + "--lora-target all-linear",
    "lora, attention, rslora": LORA + "--lora-target attention --use-rslora",
    "dora": LORA + "--lora-target all-linear --use-dora",
    "lora, saved modules": LORA + "--lora-target attention --modules-to-save embed,lm_head",
    "prefix": PROMPT + "prefix",
    "prefix, projection": PROMPT + "prefix --prefix-projection --encoder-hidden-size 16",
    "prompt": PROMPT + "prompt --prompt-tuning-init vocab",
    "p-tuning": PROMPT + "p-tuning --encoder-hidden-size 16",
}
TRAINING = "--max-steps 3 --learning-rate 3e-2 --warmup-steps 1 --micro-batch-size 4 " \
           "--eval-samples 0 --seed 1"
TEXTS = ["The capital of Norway is Oslo.",
         "### Instruction:\nIs a heron a fruit or a bird?\n\n### Response:\nA heron is a bird.\n\n"
         "### End"]
TOLERANCE = 1e-4  # of a natural-log probability
VISIBLE = 1e-2    # an adapter changes some log-probability by more than this
# What PEFT only warns of, and then goes on with something else than what was saved.
FORBIDDEN = ["missing adapter keys", "Unexpected keyword arguments", "mismatched"]


class Failure(Exception):
    pass


def require(condition, message):
    if not condition:
        raise Failure(message)


def run(lathe, *arguments):
    command = [lathe, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        tail = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-20:])
        raise Failure(f"status {done.returncode} of: {shlex.join(command)}\n{tail}")
    return done.stdout


def lathe_scores(lathe, base, ids, adapter=None):
    """[len(ids) - 1] log-probabilities: of each token but the first, given those before it."""
    arguments = ["score", "--model", base, "--ids", " ".join(map(str, ids)), "--json"]
    out = run(lathe, *arguments, *(["--adapter", adapter] if adapter else []))
    try:
        scores = json.loads(out)["log_probabilities"]
    except (ValueError, KeyError, TypeError) as e:
        raise Failure(f"lathe score --json printed no log_probabilities ({e!r}): {out[:500]}")
    require(len(scores) == len(ids) and scores[0] is None and None not in scores[1:],
            f"lathe score gives null for the first of {len(ids)} tokens and a number for each "
            f"other one; this is {scores}")
    return torch.tensor(scores[1:], dtype=torch.float64)


def torch_scores(model, ids):
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -len(ids):].double()  # no virtual tokens
    return logits.log_softmax(-1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def load_model(directory):
    return transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager").eval()


def load_adapter(base, directory):
    """With every tensor of the file in place, and nothing that PEFT would have to guess."""
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        require(os.path.isfile(os.path.join(directory, file)), f"{directory} has no {file}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(load_model(base), directory).eval()
    for w in caught:
        require(not any(f in str(w.message) for f in FORBIDDEN), f"peft warns: {w.message}")
    saved = load_file(os.path.join(directory, "adapter_model.safetensors"))
    loaded = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    require(saved.keys() == loaded.keys(), "only in the file or only in peft's model: "
            f"{sorted(saved.keys() ^ loaded.keys())}")
    for name, tensor in saved.items():
        require(torch.equal(tensor.float(), loaded[name].float()), f"peft has another {name}")
    return model


def difference(a, b):
    return max((x - y).abs().max().item() for x, y in zip(a, b))


def check_base(lathe, base, texts):
    ours = [lathe_scores(lathe, base, ids) for ids in texts]
    model = load_model(base)
    theirs = [torch_scores(model, ids) for ids in texts]
    off = difference(ours, theirs)
    require(off < TOLERANCE, f"without an adapter a log-probability is off by {off:.2e}")
    return theirs


def check_method(lathe, base, data, options, texts, base_scores, directory):
    run(lathe, "train", "--model", base, "--data", data, "--output", directory,
        *options.split(), *TRAINING.split())
    adapter = os.path.join(directory, "final")
    model = load_adapter(base, adapter)
    theirs = [torch_scores(model, ids) for ids in texts]
    change = difference(theirs, base_scores)
    require(change > VISIBLE, f"the adapter changes no log-probability by more than {change:.2e}")
    off = difference([lathe_scores(lathe, base, ids, adapter) for ids in texts], theirs)
    require(off < TOLERANCE, f"a log-probability is off by {off:.2e}")
    line = f"within {off:.1e} (the adapter changes up to {change:.2f})"
    if options.startswith(LORA):
        merged = os.path.join(directory, "merged")
        run(lathe, "merge", "--model", base, "--adapter", adapter, "--output", merged)
        model = load_model(merged)
        off = difference([torch_scores(model, ids) for ids in texts], theirs)
        require(off < TOLERANCE, f"merged: a log-probability is off by {off:.2e}")
        line += f", merged within {off:.1e}"
    return line


def prepare(lathe, scratch):
    tokenizer, data = os.path.join(scratch, "tokenizer"), os.path.join(scratch, "data.h5")
    special = [word for token in SPECIAL for word in ("--special-tokens", token)]
    run(lathe, "tokenizer", "train", "--input", SAMPLE, "--vocab-size", "600", *special,
        "--output", tokenizer)
    run(lathe, "prepare", "--input", SAMPLE, "--tokenizer", tokenizer, "--output", data,
        "--validation", "50")
    encode = Tokenizer.from_file(os.path.join(tokenizer, "tokenizer.json"))
    texts = [encode.encode(text).ids for text in TEXTS]
    texts.append(torch.randint(0, encode.get_vocab_size(), (100,)).tolist())
    return tokenizer, data, texts


def check_all(lathe, scratch):
    torch.manual_seed(0)
    tokenizer, data, texts = prepare(lathe, scratch)
    failures = 0

    def report(family, name, check):
        """What check() returns, or None when it fails."""
        nonlocal failures
        try:
            result = check()
        except Failure as e:
            result, line = None, f"FAILED: {e}"
        except Exception as e:  # peft and transformers raise of every kind
            result, line = None, f"FAILED: {type(e).__name__}: {e}"
        else:
            line = result if isinstance(result, str) else "as transformers computes it"
        failures += result is None
        print(f"{family:9} {name:24} {line}", flush=True)
        return result

    for family, shape in FAMILIES.items():
        base = os.path.join(scratch, family)
        run(lathe, "init", "--family", family, "--layers", "2", "--hidden-size", "32",
            "--heads", "4", *shape, "--max-position", "256", "--initializer-range", "0.2",
            "--tokenizer", tokenizer, "--output", base, "--seed", "1")
        scores = report(family, "no adapter", lambda: check_base(lathe, base, texts))
        if scores is None:
            continue
        for name, options in METHODS.items():
            directory = os.path.join(scratch, f"{family} {name}".replace(",", "").replace(" ", "_"))
            report(family, name, lambda: check_method(lathe, base, data, options, texts, scores,
                                                      directory))
    return failures


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("lathe", help="the program, for example build/release/lathe")
    parser.add_argument("--keep", metavar="DIR", help="work in this new directory and leave it")
    arguments = parser.parse_args()
    lathe = os.path.abspath(arguments.lathe)
    if not os.access(lathe, os.X_OK):
        sys.exit(f"{arguments.lathe} is not a program")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        if arguments.keep:
            os.makedirs(arguments.keep)
            failures = check_all(lathe, os.path.abspath(arguments.keep))
        else:
            with tempfile.TemporaryDirectory() as scratch:
                failures = check_all(lathe, scratch)
    except Failure as e:
        sys.exit(f"FAILED before any adapter: {e}")
    except FileExistsError:
        sys.exit(f"{arguments.keep} exists already")
    print(f"{failures} failed" if failures else "all agree")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
