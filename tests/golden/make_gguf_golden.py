#!/usr/bin/env python3
"""Makes tests/golden/gguf: what llama.cpp's own programs make of numbers, models and adapters.

Made with llama.cpp's commit 0c1e570 (October 2026), its gguf package (0.19 has the same numbers) and
its libggml-base (built without FMA, as it is by default on x86-64), transformers 5.24.0, torch 2.15.0, xxhash 4.1.0:
    LLAMA_CPP=.../llama.cpp GGML_BASE=.../libggml-base.so LLAMA_QUANTIZE=.../llama-quantize \\
        OMP_NUM_THREADS=1 python tests/golden/make_gguf_golden.py

    quants.gguf      written by gguf's GGUFWriter. values: f32 [11, 256], rows of all sorts. For each
                     type: TYPE.blocks, those rows as ggml's quantize_row_TYPE_ref encodes them;
                     TYPE.random, blocks of random bytes, and TYPE.decoded, f32, what gguf's
                     dequantize makes of them. Key-values of every type.
    converted.json   for models of tests/golden/models and adapters of tests/golden/adapters: keys
                     and tensors [type, shape, XXH3-128 of the data] of the file that
                     convert_hf_to_gguf.py or convert_lora_to_gguf.py makes. (The converter's LoRA of
                     GPT-2 is not among them: it turns A and B over with the Conv1D weight, though
                     PEFT has them as for a Linear, and llama.cpp refuses the result.)
    quantised.json   for some shapes: the types that llama-quantize chooses.
No test runs this file.
"""
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

LLAMA_CPP = Path(os.environ["LLAMA_CPP"])
sys.path[:0] = [str(LLAMA_CPP), str(LLAMA_CPP / "gguf-py")]

import gguf
import torch
import transformers
import xxhash
from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

HERE = Path(__file__).parent
OUT = HERE / "gguf"
T = gguf.GGMLQuantizationType
BLOCK_TYPES = {"q8_0": T.Q8_0, "q5_0": T.Q5_0, "q4_0": T.Q4_0, "q4_K": T.Q4_K, "q6_K": T.Q6_K}


# --- Numbers --------------------------------------------------------------------------------------


def rows():
    """Rows of 256: what weights look like, and what they should not."""
    rng = np.random.default_rng(20)
    x = rng.standard_normal((11, 256)) * 0.05
    x[1] = np.where(np.arange(256) % 64 == 13, -4, 1e-3 * x[1])  # one large value among small ones
    x[2] = -np.abs(x[2])
    x[3] = (np.arange(256) % 16 - 8) / 4  # ties
    x[4, :128], x[4, 128:] = 0, 0.25  # a group of zeros, a group of equal values
    x[5] = np.abs(x[5]) + 3  # no zero in reach
    x[6] = rng.standard_normal(256) * 10.0 ** rng.integers(-44, -30, 256)  # denormal in f32
    x[7] = np.where(np.arange(256) % 2, 1, -1) * 2e-7  # denormal in f16
    x[8] = np.floor(rng.standard_normal(256) * 4) * 37.5
    half = np.random.default_rng(27).laplace(size=128) * 0.05  # Q4_K's last step is its best
    x[9] = np.concatenate([half, -half])  # Q6_K's scales are of both signs
    x[10, :64] = np.where(np.arange(64) % 32 == 0, 127, np.arange(64) % 32 - 15.5)  # Q8_0's ties
    x[10, 64:] = 1e-44 * (np.arange(192) % 5 - 2)  # the inverse of the scale is infinite
    return x.astype(np.float32)


def encode(lib, name, x, size):
    out = np.zeros(size, np.uint8)
    function = getattr(lib, f"quantize_row_{name}_ref")
    function(x.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p),
             ctypes.c_int64(x.size))
    return out


def random_blocks(rng, name, values, size):
    """Random bytes, but finite scales of the size that they have."""
    blocks = rng.integers(0, 256, (512 // values, size), dtype=np.uint8)
    for at in {"q4_K": [0, 2], "q6_K": [208]}.get(name, [0]):
        scale = (rng.standard_normal(len(blocks)) * 0.01).astype(np.float16)
        blocks[:, at:at + 2] = scale.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(2, -1)


def make_quants():
    lib = ctypes.CDLL(os.environ["GGML_BASE"])
    rng = np.random.default_rng(21)
    x = rows()
    writer = gguf.GGUFWriter(OUT / "quants.gguf", "none")
    for value_type, value in [("uint8", 200), ("int8", -100), ("uint16", 60000), ("int16", -30000),
                              ("uint32", 4000000000), ("int32", -2000000000), ("uint64", 1 << 40),
                              ("int64", -(1 << 40)), ("float32", 0.1), ("float64", 0.1),
                              ("bool", True)]:
        getattr(writer, f"add_{value_type}")(f"test.{value_type}", value)
    writer.add_string("test.string", "naïve\n")
    writer.add_array("test.strings", ["", "a", "日本"])
    writer.add_array("test.numbers", [3, -1, 2])
    writer.add_tensor("values", x)
    writer.add_tensor("f16.blocks", x.astype(np.float16))
    writer.add_tensor("bf16.blocks", gguf.quants.quantize(x, T.BF16), raw_dtype=T.BF16)
    for name, kind in BLOCK_TYPES.items():
        values, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = encode(lib, name, x, x.size // values * size).reshape(len(x), -1)
        if name in ("q8_0", "q5_0", "q4_0"):
            with np.errstate(all="ignore"):
                agree = [i for i in range(len(x)) if i not in (6, 10)]  # numpy is vague on infinities
                assert np.array_equal(gguf.quants.quantize(x, kind)[agree], blocks[agree]), name
        decoded_from = random_blocks(rng, name, values, size)
        writer.add_tensor(f"{name.lower()}.blocks", blocks, raw_dtype=kind)
        writer.add_tensor(f"{name.lower()}.random", decoded_from, raw_dtype=kind)
        writer.add_tensor(f"{name.lower()}.decoded", gguf.quants.dequantize(decoded_from, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# --- Models ---------------------------------------------------------------------------------------


def convert(directory, out):
    """convert_hf_to_gguf.py --outtype f32, without a vocabulary."""
    hparams = ModelBase.load_hparams(directory, False)
    # what transformers 5 has renamed, and the converter still asks for
    hparams.setdefault("n_ctx", hparams.get("n_positions"))
    hparams.setdefault("rotary_pct",
                       hparams.get("rope_parameters", {}).get("partial_rotary_factor"))
    base = get_model_class(get_model_architecture(hparams, ModelType.TEXT))

    class Model(base):
        model_arch = base.model_arch

        def set_vocab(self):
            pass

    with torch.inference_mode():
        Model(directory, gguf.LlamaFileType.ALL_F32, out, hparams=hparams).write()


def describe(path):
    reader = gguf.GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items()
            if not name.startswith("GGUF.")}
    for name in ("general.name", "general.size_label"):
        keys.pop(name, None)
    tensors = {t.name: [t.tensor_type.name, [int(n) for n in reversed(t.shape)],
                        xxhash.xxh3_128_hexdigest(t.data.tobytes())] for t in reader.tensors}
    return {"keys": keys, "tensors": tensors}


def make_converted(scratch):
    out = {"models": {}, "adapters": {}}
    for name in ["gpt2", "gpt_neox", "llama", "llama3_rope", "llama_linear_bf16", "mistral",
                 "qwen2", "qwen3_sharded"]:
        convert(HERE / "models" / name, scratch / "model.gguf")
        out["models"][name] = describe(scratch / "model.gguf")
    for name, base in [("llama_lora", "llama"), ("gpt_neox_lora", "gpt_neox")]:
        subprocess.run([sys.executable, LLAMA_CPP / "convert_lora_to_gguf.py", "--outtype", "f32",
                        "--base", HERE / "models" / base, "--outfile", scratch / "adapter.gguf",
                        HERE / "adapters" / name], check=True, capture_output=True)
        out["adapters"][name] = {"base": base, **describe(scratch / "adapter.gguf")}
    (OUT / "converted.json").write_text(json.dumps(out, indent=1) + "\n")


# --- Types ----------------------------------------------------------------------------------------


def shapes():
    common = dict(vocab_size=64, num_attention_heads=8, num_key_value_heads=4,
                  max_position_embeddings=32, bos_token_id=1, eos_token_id=2)
    yield transformers.LlamaForCausalLM, transformers.LlamaConfig(
        hidden_size=256, intermediate_size=512, num_hidden_layers=9, **common)
    yield transformers.LlamaForCausalLM, transformers.LlamaConfig(
        hidden_size=192, intermediate_size=520, num_hidden_layers=8, tie_word_embeddings=True,
        attention_bias=True, mlp_bias=True, **common)
    yield transformers.Qwen3ForCausalLM, transformers.Qwen3Config(
        hidden_size=40, intermediate_size=256, num_hidden_layers=3, head_dim=32, **common)
    yield transformers.GPT2LMHeadModel, transformers.GPT2Config(
        vocab_size=64, n_embd=256, n_layer=17, n_head=4, n_positions=32, bos_token_id=1,
        eos_token_id=2)
    yield transformers.GPTNeoXForCausalLM, transformers.GPTNeoXConfig(
        hidden_size=256, intermediate_size=512, num_hidden_layers=4, **common)


def make_quantised(scratch):
    out = []
    for model_class, config in shapes():
        directory = scratch / "shape"
        shutil.rmtree(directory, ignore_errors=True)
        model_class(config).save_pretrained(directory)
        convert(directory, scratch / "shape.gguf")
        types = {}
        for name in ["q8_0", "q6_k", "q5_0", "q4_k_m", "q4_0"]:
            subprocess.run([os.environ["LLAMA_QUANTIZE"], scratch / "shape.gguf",
                            scratch / "quantised.gguf", name.upper()], check=True,
                           capture_output=True)
            types[name] = {t.name: t.tensor_type.name
                           for t in gguf.GGUFReader(scratch / "quantised.gguf").tensors
                           if len(t.shape) > 1}
        # one line for a tensor: its types in the formats' order
        tensors = {tensor: " ".join(types[name][tensor] for name in types)
                   for tensor in types["q8_0"]}
        saved = json.loads((directory / "config.json").read_text())
        out.append({"config": saved, "formats": list(types), "types": tensors})
    (OUT / "quantised.json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    torch.manual_seed(1)
    OUT.mkdir(exist_ok=True)
    make_quants()
    with tempfile.TemporaryDirectory() as scratch:
        make_converted(Path(scratch))
        make_quantised(Path(scratch))
