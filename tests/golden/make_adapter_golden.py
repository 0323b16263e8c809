#!/usr/bin/env python3
"""Makes tests/golden/adapters: random adapters in PEFT's files, on the models of
tests/golden/models, and what they compute.

Made with peft 0.21.2, transformers 5.24.0 and torch 2.15.0 (f32, CPU, eager attention, no dropout,
fixed seeds, one thread):
    OMP_NUM_THREADS=1 python tests/golden/make_adapter_golden.py
Each NAME/ is an adapter directory as save_pretrained writes it, but without README.md, and with the
lists of adapter_config.json sorted (PEFT's sets change their order from run to run). The base model
is at base_model_name_or_path, relative to NAME/. Beside them lie
    expected.safetensors       input_ids, labels (i32 [rows, length]; not shifted, some -100),
                               logits [rows, length, vocab], loss [1] (mean over trained tokens);
                               adamw_losses, adamw_norms [5]. PEFT's prompt tuning and p-tuning
                               return logits of the virtual tokens too: they are cut off here.
    gradients/                 adapter_model.safetensors: the gradient of that loss with respect to
                               every trained tensor, under the names of the adapter's file
    after_adamw/               adapter_model.safetensors: the adapter after five AdamW steps on the
                               same batch
    prompt_encoder.safetensors (prefix with projection, p-tuning) what is trained, under PEFT's
                               module names. PEFT's files hold only the prompt that comes out, so
                               gradients/ has this file instead of adapter_model.safetensors, and
                               after_adamw/ has both.
gpt2_lora_old/ is gpt2_lora with the few keys of old PEFT and target_modules as a regular
expression.

What PEFT does where it could be otherwise:
- Prompt tuning and p-tuning put -100 before the labels, but the shift makes the last virtual token
  predict the first real one: a first token with a label is trained. Prefix tuning has no such
  place. The labels here start with -100, so that no method trains a token that another does not.
- modules_to_save ["wte", "lm_head"] of a tied model: two independent copies of one matrix are
  trained and saved, under `...wte.weight` and `lm_head.weight` (ensure_weight_tying, off by default
  and unknown to older PEFT, would keep them one). The module that is not named stays as the base
  has it: with only "wte" the head goes on with the base's matrix.
- DoRA: the magnitude has one element per output and scales W + scaling B A, divided by the norm of
  its rows (columns of a Conv1D's weight), without the bias; the norm follows A and B but counts as
  a constant in the backward pass.
- Prefix tuning: the heads are key/value heads (llama: 2 of the 4), the keys are used as they are,
  and the first real token is at position num_virtual_tokens. A sliding window counts the prefix as
  positions from 0 on, so it slides out of sight (no case here).
No test runs this file.
"""
import json
import os
import shutil
import warnings

import peft
import torch
import transformers
from peft import LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
from safetensors.torch import load_file, save_file

from make_model_golden import train

HERE = os.path.dirname(os.path.abspath(__file__))
ADAPTERS = os.path.join(HERE, "adapters")
ROWS, LENGTH, VIRTUAL = 2, 12, 5
VISIBLE = 0.05  # an adapter changes some logit by more than this
ENCODERS = {"prefix_projection", "p_tuning"}
OLD_KEYS = ["base_model_name_or_path", "bias", "fan_in_fan_out", "inference_mode",
            "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha",
            "lora_dropout", "modules_to_save", "peft_type", "r", "revision", "target_modules",
            "task_type"]


def load_base(family):
    return transformers.AutoModelForCausalLM.from_pretrained(
        os.path.join(HERE, "models", family), dtype=torch.float32,
        attn_implementation="eager").eval()


def lora(targets, **options):
    return LoraConfig(task_type="CAUSAL_LM", **{"r": 3, "lora_alpha": 6, "lora_dropout": 0.0,
                                                "target_modules": targets} | options)


def perturb(model):
    """Every trained tensor away from its initial value; a gradient of A needs a B that is not 0."""
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        noise = torch.randn_like(p)
        if "lora_magnitude_vector" in name:
            p.data *= 1 + noise.sign() * (0.1 + 0.1 * torch.rand_like(p))
        elif "modules_to_save" in name:
            p.data += 0.1 * noise
        elif "prompt_encoder" in name:
            p.data = noise * (0.6 if "embedding" in name else 0.35 if p.ndim == 2 else 0.15)
        else:
            p.data = 0.25 * noise


def make_batch(vocab):
    ids = torch.randint(0, vocab, (ROWS, LENGTH))
    labels = ids.clone()
    labels[torch.rand(ROWS, LENGTH) < 0.3] = -100
    labels[:, 0] = -100
    labels[0, :3] = -100
    return ids, labels


def real_logits(model, ids):
    return model(ids).logits[:, -ids.shape[1]:]


def adapter_tensors(model, gradients=False):
    """Under the names of adapter_model.safetensors."""
    values = None
    if gradients:
        if model.active_peft_config.is_prompt_learning:
            return {"prompt_embeddings": model.prompt_encoder["default"].embedding.weight.grad}
        values = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    tensors = peft.get_peft_model_state_dict(model, values, save_embedding_layers=False)
    return {n: t.detach().contiguous() for n, t in tensors.items()}


def encoder_tensors(model, gradients=False):
    return {n: p.grad if gradients else p.detach()
            for n, p in model.prompt_encoder["default"].named_parameters()}


def save(tensors, *path):
    path = os.path.join(*path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    save_file({n: t.clone() for n, t in tensors.items()}, path, metadata={"format": "pt"})


def save_adapter(model, directory):
    model.save_pretrained(directory, save_embedding_layers=False)
    os.remove(os.path.join(directory, "README.md"))
    path = os.path.join(directory, "adapter_config.json")
    config = json.load(open(path))
    for name in ("target_modules", "modules_to_save"):
        if config.get(name):
            config[name] = sorted(config[name])
    json.dump(config, open(path, "w"), indent=2, sort_keys=True)


def check_loads(directory, family, ids, logits):
    loaded = peft.PeftModel.from_pretrained(load_base(family), directory).eval()
    with torch.no_grad():
        off = (real_logits(loaded, ids) - logits).abs().max().item()
    assert off < 1e-5, f"{directory}: loaded again a logit is off by {off}"


def mean_loss(logits, labels):
    """Over the real tokens' own predictions: virtual tokens add none."""
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def make(name, config, seed):
    torch.manual_seed(seed)
    family = "gpt_neox" if name.startswith("gpt_neox") else name.split("_")[0]
    directory = os.path.join(ADAPTERS, name)
    shutil.rmtree(directory, ignore_errors=True)
    model = load_base(family)
    ids, labels = make_batch(model.config.vocab_size)
    with torch.no_grad():
        before = model(ids).logits
    model = peft.get_peft_model(model, config).eval()
    config.base_model_name_or_path = f"../../models/{family}"
    perturb(model)
    has_encoder = name.removeprefix(family + "_") in ENCODERS

    save_adapter(model, directory)
    loss = model(ids, labels=labels).loss
    loss.backward()
    with torch.no_grad():
        logits = real_logits(model, ids)
    change = (logits - before).abs().max().item()
    assert change > VISIBLE, f"{name}: the adapter changes no logit by more than {change}"
    assert abs(mean_loss(logits, labels) - loss).item() < 1e-6, f"{name}: other tokens are trained"
    check_loads(directory, family, ids, logits)

    tensors = encoder_tensors if has_encoder else adapter_tensors
    file = "prompt_encoder.safetensors" if has_encoder else "adapter_model.safetensors"
    for key, gradient in tensors(model, gradients=True).items():
        assert gradient.abs().max() > 1e-4, f"{name}: the gradient of {key} is trivial"
    save(tensors(model, gradients=True), directory, "gradients", file)
    if has_encoder:
        save(tensors(model), directory, file)
    losses, norms = train(model, ids, labels, steps=5)
    save(adapter_tensors(model), directory, "after_adamw", "adapter_model.safetensors")
    if has_encoder:
        save(tensors(model), directory, "after_adamw", file)
    save({"input_ids": ids.to(torch.int32), "labels": labels.to(torch.int32), "logits": logits,
          "loss": loss.detach().reshape(1), "adamw_losses": torch.tensor(losses),
          "adamw_norms": torch.tensor(norms)}, directory, "expected.safetensors")
    size = sum(os.path.getsize(os.path.join(d, f)) for d, _, fs in os.walk(directory) for f in fs)
    print(f"{name}: {size} bytes, loss {loss.item():.5f}, a logit changes by {change:.3f}")


def make_old(name, source, target_modules):
    """The same adapter as an old PEFT described it."""
    directory, source = os.path.join(ADAPTERS, name), os.path.join(ADAPTERS, source)
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    config = json.load(open(os.path.join(source, "adapter_config.json")))
    config = {key: config[key] for key in OLD_KEYS} | {"target_modules": target_modules}
    json.dump(config, open(os.path.join(directory, "adapter_config.json"), "w"), indent=2,
              sort_keys=True)
    shutil.copy(os.path.join(source, "adapter_model.safetensors"), directory)
    expected = load_file(os.path.join(source, "expected.safetensors"))
    check_loads(directory, "gpt2", expected["input_ids"].long(), expected["logits"])
    print(f"{name}: as {source.split(os.sep)[-1]}")


def prompt_cases(family, seed):
    virtual = {"num_virtual_tokens": VIRTUAL, "task_type": "CAUSAL_LM"}
    make(f"{family}_prefix", PrefixTuningConfig(**virtual), seed)
    make(f"{family}_prefix_projection", PrefixTuningConfig(prefix_projection=True,
                                                           encoder_hidden_size=10, **virtual),
         seed + 1)
    make(f"{family}_prompt", PromptTuningConfig(**virtual), seed + 2)
    make(f"{family}_p_tuning", PromptEncoderConfig(encoder_hidden_size=12, **virtual), seed + 3)


def main():
    gpt2 = {"fan_in_fan_out": True}
    every = ["c_attn", "c_proj", "c_fc"]
    make("gpt2_lora", lora(every, **gpt2), 1)
    make_old("gpt2_lora_old", "gpt2_lora", r".*\.(attn|mlp)\.c_(attn|proj|fc)$")
    make("gpt2_lora_rslora", lora(["c_attn"], use_rslora=True, **gpt2), 2)
    make("gpt2_dora", lora(every, use_dora=True, **gpt2), 3)
    make("gpt2_lora_saved", lora(["c_attn"], modules_to_save=["wte", "lm_head"], **gpt2), 4)
    prompt_cases("gpt2", 5)

    neox = ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]
    make("gpt_neox_lora", lora(neox), 11)
    make("gpt_neox_rslora", lora(neox, r=4, use_rslora=True), 12)
    make("gpt_neox_dora", lora(neox, use_dora=True), 13)
    prompt_cases("gpt_neox", 14)

    every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    some = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]
    make("llama_lora", lora(every), 21)
    make("llama_lora_patterns", lora(
        ["q_proj", "v_proj", "down_proj"], layers_to_transform=[1],
        rank_pattern={"q_proj": 2, "self_attn.v_proj": 5},
        alpha_pattern={"v_proj": 4, "layers.1.mlp.down_proj": 9}), 22)
    make("llama_rslora", lora(every, r=4, lora_alpha=4, use_rslora=True), 23)
    make("llama_dora", lora(some, use_dora=True), 24)
    make("llama_lora_saved",
         lora(["q_proj", "v_proj"], modules_to_save=["embed_tokens", "lm_head"]), 25)
    prompt_cases("llama", 26)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
