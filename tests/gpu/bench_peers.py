#!/usr/bin/env python3
"""What PyTorch, Hugging Face transformers and PEFT reach on this GPU, under the names of Lathe's own benchmarks
(tests/bench/bench_gpu*.cu, bench_train_step.c, bench_gpu_decode.c): lines SECTION NAME WHO VALUE UNIT, tabs between.

    bench_peers.py versions
    bench_peers.py attention
    bench_peers.py train NAME ROWS LENGTH STEPS METHOD     (gpt2-124m, gpt2-xl, llama-2-7b; full, lora)
    bench_peers.py decode NAME ROWS TOKENS

Models have random weights. What is not installed is left out, and said on stderr.
"""
import statistics
import sys
import time
import warnings

warnings.simplefilter("ignore")


def row(section, name, who, value, unit):
    print(f"{section}\t{name}\t{who}\t{value:.6g}\t{unit}", flush=True)


def note(text):
    print(text, file=sys.stderr)


try:
    import torch
except ImportError:
    note("PyTorch is not installed")
    sys.exit(77)

# (batch, length, heads, kv_heads, head_dim): as in bench_gpu_attention.cu
ATTENTION = [(16, 1024, 12, 12, 64), (8, 1024, 25, 25, 64), (4, 2048, 32, 32, 128), (2, 4096, 32, 32, 128),
             (2, 4096, 32, 8, 128)]


def versions():
    found = [f"torch {torch.__version__}"]
    if torch.backends.cudnn.is_available():
        found.append(f"cuDNN {torch.backends.cudnn.version()}")
    for name in ("transformers", "peft", "flash_attn"):
        try:
            found.append(f"{name} {__import__(name).__version__}")
        except Exception:  # not installed, or installed and broken
            found.append(f"{name}: not installed")
    print(", ".join(found))


def seconds_of(run):
    """Of one run(): the median of samples that each last about 20 ms, after warming up."""
    runs, samples = 1, []
    for i in range(-2, 9):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(runs):
            run()
        end.record()
        torch.cuda.synchronize()
        elapsed = begin.elapsed_time(end)
        if i >= 0:
            samples.append(elapsed / 1000 / runs)
        elif i == -1:
            runs = int(min(500, max(1, 20 / max(elapsed, 0.01))))
    return statistics.median(samples)


def attention_case(backend, who, batch, length, heads, kv_heads, head_dim):
    from torch.nn.attention import sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention as attend

    def tensor(count):  # strided as a view of [batch, length, heads, head_dim]
        x = torch.randn(batch, length, count, head_dim, device="cuda", dtype=torch.bfloat16)
        return x.transpose(1, 2).requires_grad_()

    q, k, v = tensor(heads), tensor(kv_heads), tensor(kv_heads)
    grouped = {"enable_gqa": True} if kv_heads != heads else {}
    work = 2e-12 * batch * heads * head_dim * length * length
    shape = f"{batch}x{length} heads {heads}/{kv_heads} of {head_dim}"
    with sdpa_kernel([backend]):
        with torch.no_grad():
            forward = seconds_of(lambda: attend(q, k, v, is_causal=True, **grouped))
        out = attend(q, k, v, is_causal=True, **grouped)
        dout = torch.randn_like(out)
        backward = seconds_of(lambda: torch.autograd.grad(out, (q, k, v), dout, retain_graph=True))
    row("attention", "forward " + shape, who, work / forward, "TFLOP/s")
    row("attention", "backward " + shape, who, 2.5 * work / backward, "TFLOP/s")


def attention():
    from torch.nn.attention import SDPBackend
    for shape in ATTENTION:
        for backend, who in ((SDPBackend.FLASH_ATTENTION, "torch flash"),
                             (getattr(SDPBackend, "CUDNN_ATTENTION", None), "torch cuDNN")):
            try:
                if backend is not None:
                    attention_case(backend, who, *shape)
            except Exception as error:  # this backend can not do this shape, or is not built in
                note(f"{who} {shape}: {str(error).splitlines()[0]}")
            torch.cuda.empty_cache()


def make_config(name):
    import transformers
    if name.startswith("gpt2"):
        sizes = {"gpt2-124m": (12, 768, 12), "gpt2-xl": (48, 1600, 25)}
        layers, hidden, heads = sizes[name]
        return transformers.GPT2Config(n_layer=layers, n_embd=hidden, n_head=heads, resid_pdrop=0.0, embd_pdrop=0.0,
                                       attn_pdrop=0.0)
    if name == "llama-2-7b":
        return transformers.LlamaConfig(vocab_size=32000, hidden_size=4096, intermediate_size=11008,
                                        num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32,
                                        max_position_embeddings=4096, rms_norm_eps=1e-5)
    raise SystemExit(f"unknown model {name}")


def make_model(name, dtype):
    import transformers
    config = make_config(name)
    config._attn_implementation = "sdpa"
    torch.set_default_dtype(dtype)
    with torch.device("cuda"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    torch.set_default_dtype(torch.float32)
    return model, config


def add_lora(model, name):
    """Rank 8 on every linear module of a block, as bench_train_step does. The adapter is f32, its base bf16."""
    import peft
    gpt2 = name.startswith("gpt2")
    targets = ["c_attn", "c_proj", "c_fc"] if gpt2 else ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj",
                                                          "down_proj"]
    return peft.get_peft_model(model, peft.LoraConfig(r=8, lora_alpha=16, target_modules=targets, fan_in_fan_out=gpt2,
                                                      task_type="CAUSAL_LM"))


def train(name, rows, length, steps, method):
    """Full: f32 weights under bf16 autocast, which is what mixed precision means there. LoRA: a bf16 base."""
    lora = method == "lora"
    torch.manual_seed(1)
    model, config = make_model(name, torch.bfloat16 if lora else torch.float32)
    total = sum(p.numel() for p in model.parameters())
    if lora:
        model = add_lora(model, name)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    ids = torch.randint(0, config.vocab_size, (rows, length + 1), device="cuda")

    def loss_of(inputs, targets):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            logits = model(input_ids=inputs, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    compiled = torch.compile(loss_of)

    def step():
        optimizer.zero_grad(set_to_none=True)
        compiled(ids[:, :-1], ids[:, 1:]).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    for _ in range(3):
        step()
    times = []
    for _ in range(3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / steps)
    case, who = f"{name} {method} {rows}x{length}", "hf + peft" if lora else "hf"
    flops = (4 if lora else 6) * total + 12 * config.num_hidden_layers * length * config.hidden_size
    row("train", case, who, rows * length / statistics.median(times), "tokens/s")
    row("train", case, who, torch.cuda.max_memory_reserved() / 1e9, "GB")
    row("train", case, "work", flops / 1e9, "GFLOP/token")


def decode(name, rows, tokens):
    """Greedy, a static cache, the forward pass compiled: what transformers offers as its fastest."""
    torch.manual_seed(1)
    model, config = make_model(name, torch.bfloat16)
    model.eval()
    model.generation_config.cache_implementation = "static"
    model.generation_config.pad_token_id = 0
    ids = torch.randint(0, config.vocab_size, (rows, 32), device="cuda")

    def generate(count):
        torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.inference_mode():
            model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count,
                           min_new_tokens=count, max_length=None)
        torch.cuda.synchronize()
        return time.perf_counter() - start

    for _ in range(2):
        generate(tokens)
    short = min(generate(16) for _ in range(2))
    long = min(generate(tokens) for _ in range(2))
    row("decode", f"{name}, rows: {rows}", "hf", rows * (tokens - 16) / (long - short), "tokens/s")


def main():
    if not torch.cuda.is_available():
        note("PyTorch sees no GPU")
        return 77
    torch.backends.cuda.matmul.allow_tf32 = False
    what = sys.argv[1] if len(sys.argv) > 1 else ""
    try:
        if what == "versions":
            versions()
        elif what == "attention":
            attention()
        elif what == "train":
            train(sys.argv[2], *map(int, sys.argv[3:6]), sys.argv[6])
        elif what == "decode":
            decode(sys.argv[2], *map(int, sys.argv[3:5]))
        else:
            note(__doc__)
            return 2
    except ImportError as error:
        note(f"not installed: {error.name or error}")
        return 77
    return 0


if __name__ == "__main__":
    sys.exit(main())
