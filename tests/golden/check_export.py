#!/usr/bin/env python3
"""Checks that what `lathe export` writes is what others read: real transformers, peft and gguf load
every export of the golden models and adapters, and compute what the source computes.

Made with transformers 5.24.0, peft 0.21.2, gguf 0.19.0, tokenizers 0.23.3 and torch 2.15.0 (CPU):
    OMP_NUM_THREADS=1 python tests/golden/check_export.py build/release/lathe [MODEL_DIR ...]
MODEL_DIR: further models, with or without a tokenizer. One line per model and adapter; ends with
status 1 when any of them fails. No test runs this file.

    hf      logits of the f32 export equal the source's; tensors of bf16 and f16 ones are the
            source's, rounded; in many shards too. AutoTokenizer gives equal ids, and
            apply_chat_template writes something
    gguf    GGUFReader reads the file, and its dequantised tensors are, under the names and layouts of
            Hugging Face, bit for bit what Lathe makes of the file. Where transformers has the
            architecture, from_pretrained(gguf_file=...) loads it to equal logits, and its tokenizer
            gives equal ids
    peft    peft computes equal logits with source and export; a merged export too; base + alpha /
            rank B A of an adapter GGUF is the merged GGUF
"""
import glob
import json
import os
import subprocess
import sys
import tempfile
import warnings

os.environ["TQDM_DISABLE"] = "1"

import gguf
import numpy as np
import peft
import torch
import transformers
from safetensors.torch import load_file

HERE = os.path.dirname(os.path.abspath(__file__))
TYPES = ["f32", "f16", "bf16", "q8_0", "q5_0", "q4_0", "q4_k_m", "q6_k"]
ROUNDED = {"bf16": torch.bfloat16, "f16": torch.float16}
TEXTS = ["Hello, world!", "  two  spaces\n\n\tTab", "na\u00efve caf\u00e9 \u6f22\u5b57 \U0001f642",
         "I'll won't 12345 x=6.78", "<s>a</s><|endoftext|>", ""]
TOLERANCE = 1e-5


class Failure(Exception):
    pass


class Refused(Exception):
    pass


def require(condition, message):
    if not condition:
        raise Failure(message)


def export(lathe, model, target, *options):
    done = subprocess.run([lathe, "export", "--model", model, "--output", target, "--verify",
                           *options], capture_output=True, text=True)
    if done.returncode != 0:
        message = done.stderr.strip()
        raise Refused(message) if "llama.cpp" in message else Failure(message)
    return target


def load(directory, **options):
    return transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", **options).eval()


def logits(model, vocabulary, positions):
    ids = torch.randint(0, vocabulary, (2, min(12, positions)),
                        generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(ids).logits[:, -ids.shape[1]:]


def sizes(model):
    config = model.config
    return config.vocab_size, config.max_position_embeddings


def difference(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def weights(directory):
    out = {}
    for file in sorted(glob.glob(os.path.join(directory, "model*.safetensors"))):
        out.update(load_file(file))
    return out


# --- Hugging Face directories ---------------------------------------------------------------------


def has_tokenizer(directory):
    return any(os.path.exists(os.path.join(directory, name))
               for name in ("tokenizer.json", "vocab.json"))


def check_tokenizer(source, exported):
    a = transformers.AutoTokenizer.from_pretrained(source)
    b = transformers.AutoTokenizer.from_pretrained(exported)
    for text in TEXTS:
        require(a(text).input_ids == b(text).input_ids, f"other ids for {text!r}")
    if b.chat_template:
        text = b.apply_chat_template([{"role": "user", "content": "Hi there"}], tokenize=False,
                                     add_generation_prompt=True)
        require("Hi there" in text, "the chat template drops the message")


def check_hf(lathe, source, scratch):
    model = load(source)
    expected = logits(model, *sizes(model))
    whole = export(lathe, source, scratch + "/f32", "--format", "hf", "--dtype", "f32")
    off = difference(logits(load(whole), *sizes(model)), expected)
    require(off < TOLERANCE, f"hf f32: logits are off by {off:.1e}")
    tensors = weights(whole)
    parts = export(lathe, source, scratch + "/parts", "--format", "hf", "--dtype", "f32",
                   "--max-shard-size", "10KB")
    require(len(glob.glob(parts + "/model-*.safetensors")) > 1, "one shard only")
    again = weights(parts)
    require(all(torch.equal(tensors[k], again[k]) for k in tensors), "shards hold other tensors")
    require(difference(logits(load(parts), *sizes(model)), expected) < TOLERANCE, "shards")
    for name, dtype in ROUNDED.items():
        half = weights(export(lathe, source, f"{scratch}/{name}", "--format", "hf", "--dtype", name))
        require(half.keys() == tensors.keys() and
                all(torch.equal(half[k], tensors[k].to(dtype)) for k in half), f"hf {name}")
        load(f"{scratch}/{name}")
    if has_tokenizer(source):
        check_tokenizer(source, whole)
    return f"hf {off:.0e}"


# --- GGUF -----------------------------------------------------------------------------------------

PARTS = {  # of the file -> of Hugging Face, for the families that transformers does not read
    "token_embd": "gpt_neox.embed_in", "output_norm": "gpt_neox.final_layer_norm",
    "output": "embed_out", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_qkv": "attention.query_key_value", "attn_output": "attention.dense",
    "ffn_up": "mlp.dense_h_to_4h", "ffn_down": "mlp.dense_4h_to_h"}


def read_gguf(path):
    return gguf.GGUFReader(path)


def dequantised(reader):
    return {t.name: torch.from_numpy(np.array(gguf.quants.dequantize(t.data, t.tensor_type),
                                              dtype=np.float32)) for t in reader.tensors}


def neox_names(tensors, config):
    out = {}
    for name, value in tensors.items():
        words = name.split(".")
        if words[0] != "blk":
            out[f"{PARTS[words[0]]}.{words[-1]}"] = value
            continue
        if words[2] == "attn_qkv":  # [q; k; v] -> [q; k; v] of each head
            heads = config.num_attention_heads
            value = value.reshape(3, heads, -1, *value.shape[1:]).transpose(0, 1).reshape(value.shape)
        out[f"gpt_neox.layers.{words[1]}.{PARTS[words[2]]}.{words[3]}"] = value
    return out


def check_gguf_type(lathe, source, scratch, name, config):
    """Ours is bit for bit what the real packages make of the file."""
    option = ["--dtype", name] if name in ("f32", "f16", "bf16") else ["--quantize", name]
    path = export(lathe, source, f"{scratch}/{name}.gguf", "--format", "gguf", *option)
    ours = weights(export(lathe, path, f"{scratch}/back_{name}", "--format", "hf", "--dtype", "f32"))
    if config.model_type == "gpt_neox":
        theirs = neox_names(dequantised(read_gguf(path)), config)
        model = None
    else:
        # its reader of configurations knows no biases, rotary scaling or inner sizes: it is given ours
        given = {} if config.model_type == "mistral" else {
            "config": transformers.AutoConfig.from_pretrained(f"{scratch}/back_{name}")}
        model = load(scratch, gguf_file=f"{name}.gguf", **given)
        theirs = dict(model.state_dict())
    for key, value in ours.items():
        require(key in theirs, f"{name}: {key} is not in the file")
        require(torch.equal(theirs[key], value), f"{name}: {key} differs")
    return model, ours


def check_gguf(lathe, source, scratch):
    # transformers takes a file whose general.name has "mistral" in it for an architecture of its own
    os.symlink(os.path.abspath(source), scratch + "/source")
    source = scratch + "/source"
    config = transformers.AutoConfig.from_pretrained(source)
    expected = load(source)
    sized = sizes(expected)
    expected = logits(expected, *sized)
    worst = {}
    for name in TYPES:
        model, _ = check_gguf_type(lathe, source, scratch, name, config)
        if not model or config.model_type == "mistral":  # its window is not known to "llama"
            continue
        back = logits(load(f"{scratch}/back_{name}"), *sized)
        off = difference(logits(model, *sized), back)
        require(off < TOLERANCE, f"{name}: transformers' logits are off by {off:.1e}")
        worst[name] = f"{name} {difference(back, expected):.0e}"
    if has_tokenizer(source):
        check_gguf_tokenizer(source, scratch, read=config.model_type != "gpt_neox")
    return "gguf " + (", ".join(worst.values()) or "all types")


def check_gguf_tokenizer(source, scratch, read):
    a = transformers.AutoTokenizer.from_pretrained(source)
    reader = read_gguf(f"{scratch}/f32.gguf")
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    for text, id_ in a.get_vocab().items():
        require(tokens[id_] == text, f"token {id_} is {tokens[id_]!r}, not {text!r}")
    if not read:
        return
    b = transformers.AutoTokenizer.from_pretrained(scratch, gguf_file="f32.gguf")
    for text in TEXTS:
        x, y = a(text).input_ids, b(text).input_ids
        if x != y:
            print(f"    transformers' reader of GGUF tokenizers has other ids for {text!r}: {x} {y}")


# --- Adapters -------------------------------------------------------------------------------------


def peft_logits(base, adapter):
    model = peft.PeftModel.from_pretrained(load(base), adapter).eval()
    config = model.get_base_model().config
    return logits(model, config.vocab_size, config.max_position_embeddings - 8)


def check_adapter_gguf(lathe, base, adapter, scratch):
    """base + alpha / rank B A == merged"""
    options = ["--adapter", adapter, "--format", "gguf", "--dtype", "f32"]
    merged = dequantised(read_gguf(export(lathe, base, scratch + "/merged.gguf", *options)))
    plain = dequantised(read_gguf(export(lathe, base, scratch + "/base.gguf", *options[2:])))
    reader = read_gguf(export(lathe, base, scratch + "/adapter.gguf", "--no-merge", *options))
    update = dequantised(reader)
    alpha = float(reader.fields["adapter.lora.alpha"].contents())
    require(reader.fields["general.type"].contents() == "adapter", "general.type")
    changed = 0
    for name, value in plain.items():
        if name + ".lora_a" in update:
            a, b = update[name + ".lora_a"], update[name + ".lora_b"]
            value = value + alpha / a.shape[0] * (b @ a)
            changed += 1
        off = (value - merged[name]).abs().max().item()
        require(off < 1e-5, f"{name}: base + B A is off by {off:.1e}")
    require(changed * 2 == len(update) and changed > 0, "tensors of no matrix of the base")
    for half in ("f16", "bf16"):
        read_gguf(export(lathe, base, f"{scratch}/adapter_{half}.gguf", "--no-merge", "--adapter",
                         adapter, "--format", "gguf", "--dtype", half))
    return f"gguf {changed} products"


def check_adapter(lathe, adapter, scratch):
    config = json.load(open(os.path.join(adapter, "adapter_config.json")))
    base = os.path.normpath(os.path.join(adapter, config["base_model_name_or_path"]))
    expected = peft_logits(base, adapter)
    line = []
    target = export(lathe, base, scratch + "/peft", "--adapter", adapter, "--format", "peft")
    off = difference(peft_logits(base, target), expected)
    require(off < TOLERANCE, f"peft: logits are off by {off:.1e}")
    line.append(f"peft {off:.0e}")
    half = export(lathe, base, scratch + "/peft16", "--adapter", adapter, "--format", "peft",
                  "--dtype", "bf16")
    line.append(f"bf16 {difference(peft_logits(base, half), expected):.0e}")
    if config["peft_type"] != "LORA":
        return ", ".join(line)
    merged = load(export(lathe, base, scratch + "/hf", "--adapter", adapter, "--format", "hf",
                         "--dtype", "f32"))
    vocabulary, positions = sizes(merged)
    off = difference(logits(merged, vocabulary, positions - 8), expected)
    require(off < 1e-4, f"merged: logits are off by {off:.1e}")
    line.append(f"merged {off:.0e}")
    try:
        line.append(check_adapter_gguf(lathe, base, adapter, scratch))
    except Refused as e:
        line.append(f"gguf refused: {e}")
    return ", ".join(line)


# --- All ------------------------------------------------------------------------------------------


def main():
    if len(sys.argv) < 2 or not os.access(sys.argv[1], os.X_OK):
        sys.exit(__doc__)
    lathe = os.path.abspath(sys.argv[1])
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    failures = 0

    def report(name, check, *arguments):
        nonlocal failures
        with tempfile.TemporaryDirectory() as scratch:
            try:
                line = check(lathe, *arguments, scratch)
            except Refused as e:
                line = f"refused: {e}"
            except Exception as e:  # peft and transformers raise of every kind
                failures += 1
                line = f"FAILED: {type(e).__name__}: {e}"
        print(f"{name:26} {line}", flush=True)

    for model in sorted(glob.glob(os.path.join(HERE, "models", "*"))) + sys.argv[2:]:
        name = os.path.basename(os.path.normpath(model))
        report(name, check_hf, model)
        report(name, check_gguf, model)
    for adapter in sorted(glob.glob(os.path.join(HERE, "adapters", "*"))):
        report(os.path.basename(adapter), check_adapter, adapter)
    print(f"{failures} failed" if failures else "all agree")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
