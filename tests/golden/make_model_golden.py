#!/usr/bin/env python3
"""Makes tests/golden/models: tiny random models in the files of Hugging Face, and what they compute.

Made with transformers 5.23.0 and torch 2.15.0 (f32, CPU, eager attention, fixed seeds):
    python tests/golden/make_model_golden.py
Each NAME/ is a model directory. Beside its files lie
    expected.safetensors       input_ids, labels (i32 [rows, length]; labels as Hugging Face takes
                               them, not shifted, some -100), logits [rows, length, vocab], loss [1]
                               (mean over the trained tokens)
    gradients/                 the gradient of that loss with respect to every parameter, as a model
                               directory of its own: the loader puts names and layouts in order
    after_adamw/               (gpt2 only) the weights after ten AdamW steps on the same batch, with
                               the losses and gradient norms of those steps in expected.safetensors
No test runs this file.
"""
import copy
import json
import os
import shutil

import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "models")
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16, "rope_theta": 500.0}


def perturb(model):
    """Every tensor away from its initial value, or a swapped bias or norm would go unseen."""
    for name, p in model.named_parameters():
        noise = torch.randn_like(p)
        is_norm = p.ndim == 1 and name.endswith("weight")
        p.data = 1 + 0.2 * noise if is_norm else noise * (0.25 if p.ndim == 2 else 0.15)


def v4_config(directory):
    """Rewrites config.json with the keys that transformers 4 used."""
    path = os.path.join(directory, "config.json")
    config = json.load(open(path))
    rope = config.pop("rope_parameters")
    if config["model_type"] == "gpt_neox":
        config["rotary_emb_base"] = rope["rope_theta"]
        config["rotary_pct"] = rope["partial_rotary_factor"]
    else:
        config["rope_theta"] = rope["rope_theta"]
        config["rope_scaling"] = {"type": rope["rope_type"], "factor": rope["factor"]}
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.36.0"
    json.dump(config, open(path, "w"), indent=2)


def hub_gpt2(directory):
    """The oldest form of GPT-2's file: no `transformer.` prefix, and the causal mask as a buffer."""
    path = os.path.join(directory, "model.safetensors")
    tensors = {k.removeprefix("transformer."): v for k, v in load_file(path).items()}
    n = json.load(open(os.path.join(directory, "config.json")))["n_positions"]
    for i in range(2):
        tensors[f"h.{i}.attn.bias"] = torch.tril(torch.ones(n, n)).view(1, 1, n, n)
    save_file(tensors, path, metadata={"format": "pt"})


def make_batch(vocab, rows, length):
    ids = torch.randint(0, vocab, (rows, length))
    labels = ids.clone()
    labels[torch.rand(rows, length) < 0.3] = -100
    labels[0, :3] = -100
    return ids, labels


def save_as_model(directory, model, values):
    """Saves `values` (by parameter name) as if they were the weights: save_pretrained knows the
    names that files use, which are not always those of the modules."""
    model = copy.deepcopy(model)
    for name, p in model.named_parameters():
        p.data = values[name].clone()
    model.save_pretrained(directory)
    drop_generation_config(directory)


def drop_generation_config(directory):
    path = os.path.join(directory, "generation_config.json")
    if os.path.exists(path):
        os.remove(path)


def train(model, ids, labels, steps=10):
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
    losses, norms = [], []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(ids, labels=labels).loss
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        optimizer.step()
        losses.append(loss.item())
    return losses, norms


def make(name, config, rows=2, length=14, seed=0, bf16=False, shard=None, edit=None, adamw=False):
    torch.manual_seed(seed)
    directory = os.path.join(HERE, name)
    shutil.rmtree(directory, ignore_errors=True)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model.eval()
    perturb(model)
    if bf16:
        model.to(torch.bfloat16)
    model.save_pretrained(directory, **({"max_shard_size": shard} if shard else {}))
    if bf16:  # a fresh model: to() rounds the rotary frequencies too, which stay f32 in real use
        model = transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, attn_implementation="eager").eval()
    drop_generation_config(directory)

    ids, labels = make_batch(config.vocab_size, rows, length)
    out = model(ids, labels=labels)
    out.loss.backward()
    expected = {"input_ids": ids.to(torch.int32), "labels": labels.to(torch.int32),
                "logits": out.logits.detach(), "loss": out.loss.detach().reshape(1)}
    save_as_model(os.path.join(directory, "gradients"), model,
                  {n: p.grad for n, p in model.named_parameters()})
    if adamw:
        losses, norms = train(model, ids, labels)
        expected["adamw_losses"] = torch.tensor(losses)
        expected["adamw_norms"] = torch.tensor(norms)
        save_as_model(os.path.join(directory, "after_adamw"), model,
                      {n: p.data for n, p in model.named_parameters()})
    save_file(expected, os.path.join(directory, "expected.safetensors"))
    if edit:
        edit(directory)
    size = sum(os.path.getsize(os.path.join(d, f)) for d, _, fs in os.walk(directory) for f in fs)
    print(f"{name}: {size} bytes, loss {out.loss.item():.5f}, "
          f"largest logit {out.logits.abs().max().item():.3f}")


def main():
    t = transformers
    no_drop = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    make("gpt2", t.GPT2Config(vocab_size=53, n_positions=24, n_embd=16, n_layer=2, n_head=2,
                              bos_token_id=0, eos_token_id=0, **no_drop), seed=1, adamw=True)
    make("gpt2_odd", t.GPT2Config(vocab_size=41, n_positions=19, n_embd=15, n_layer=2, n_head=3,
                                  n_inner=37, scale_attn_by_inverse_layer_idx=True,
                                  activation_function="gelu", bos_token_id=0, eos_token_id=0,
                                  **no_drop), length=19, seed=2, edit=hub_gpt2)
    neox = dict(vocab_size=47, num_hidden_layers=2, num_attention_heads=2,
                max_position_embeddings=24, bos_token_id=0, eos_token_id=0)
    make("gpt_neox", t.GPTNeoXConfig(hidden_size=32, intermediate_size=40, rope_parameters={
        "rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.25}, **neox),
        seed=3, length=12)
    make("gpt_neox_sequential", t.GPTNeoXConfig(
        hidden_size=20, intermediate_size=24, use_parallel_residual=False, attention_bias=False,
        tie_word_embeddings=True, rope_parameters={
            "rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 0.6}, **neox),
        seed=4, edit=v4_config)
    llama = dict(vocab_size=51, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                 max_position_embeddings=32, hidden_size=24, intermediate_size=28, bos_token_id=1,
                 eos_token_id=2)
    make("llama", t.LlamaConfig(**llama), seed=5)
    make("llama3_rope", t.LlamaConfig(rope_parameters=LLAMA3, tie_word_embeddings=True,
                                      attention_bias=True, mlp_bias=True,
                                      **llama | {"hidden_size": 32, "intermediate_size": 20}),
         length=20, seed=6)
    make("llama_linear_bf16", t.LlamaConfig(
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0}, **llama),
        seed=7, bf16=True, edit=v4_config)
    make("mistral", t.MistralConfig(sliding_window=5, head_dim=4, **llama), length=17, seed=8)
    make("qwen2", t.Qwen2Config(tie_word_embeddings=True, use_sliding_window=True, sliding_window=4,
                                max_window_layers=1, **llama), length=13, seed=9)
    make("qwen3_sharded", t.Qwen3Config(head_dim=10, **llama), seed=10, shard="25KB")


if __name__ == "__main__":
    main()
