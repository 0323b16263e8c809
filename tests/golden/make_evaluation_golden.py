#!/usr/bin/env python3
"""Makes tests/golden/evaluation: tiny models with tokenizers, and what lm-evaluation-harness makes
of them.

Made with lm_eval 0.4.13, transformers 5.24.0, tokenizers 0.23 and torch 2.15.0 (f32, CPU):
    OMP_NUM_THREADS=1 python tests/golden/make_evaluation_golden.py
gpt2_words/ and llama_words/ are model directories as save_pretrained writes them, with byte-level
BPE tokenizers trained on the sentences below, and trained on these for a moment, so that some
answers are likelier than others. The tokenizer of llama_words puts <s> in front and has a chat
template. Beside their files lies
    expected.json   what HFLM(pretrained=directory) answers:
                    loglikelihood           [context, continuation, log p, is_greedy], or null where
                                            it refuses
                    loglikelihood_rolling   [text, log p]
                    generate_until          [context, stop texts, max_gen_toks, answer]
                    choices, chat           samples of a multiple-choice task of questions.json
                                            (query, choices, gold), the latter (llama_words)
                                            with apply_chat_template: arguments, log p of each
                                            request, metrics
filters.json holds what RegexFilter makes of texts, [pattern, last, text, result], and whether
exact_match holds, [options, answer, reference, result].
windows.json holds [tokens, max_len, [[context, predicted], ...]] of lm_eval/utils.py's
get_rolling_token_windows and make_disjoint_window, tokens counting from 0 and the prefix -1.
No test runs this file.
"""
import json
import os
import shutil
import tempfile

import lm_eval
import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.filters.extraction import RegexFilter
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "evaluation")

SENTENCES = [
    "The sky is blue.", "The grass is green.", "The snow is white.", "The coal is black.",
    "The sun is hot.", "The ice is cold.", "A cat says meow.", "A dog says woof.",
    "A cow says moo.", "A bird can fly.", "A fish can swim.", "A horse can run.",
    "The capital of France is Paris.", "The capital of Italy is Rome.",
    "The capital of Spain is Madrid.", "The capital of Japan is Tokyo.",
    "Question: What color is the sky?\nAnswer: blue", "Question: What does a cat say?\nAnswer: meow",
    "Question: What can a bird do?\nAnswer: fly", "Question: Is the ice hot?\nAnswer: no",
    "Question: Is the sun hot?\nAnswer: yes", "One and one is two.", "Two and one is three.",
    "Two and two is four.", "The café serves crème brûlée.", "She wrote a long letter to her friend.",
    "He walked to the market and bought bread, cheese and apples.",
    "In winter the days are short, and in summer they are long.",
    "Water boils at one hundred degrees.", "Monday comes before Tuesday.",
]
CHAT = ("{{ bos_token }}{% for m in messages %}{{ '[' + m['role'] + '] ' + m['content'] + '\\n' }}"
        "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '[assistant] ' }}{% endif %}")

PAIRS = [
    ("The sky is", " blue"), ("The sky is", " green"), ("The sky is", " hot"),
    ("The sky is ", "blue"), ("The sky is  ", "blue."), ("The sky is\n", "blue"),
    ("The grass is", " green."), ("The ice is", " cold"), ("The ice is", " hot"),
    ("A cat says", " meow."), ("A cat says", " moo."), ("A cat says", " woof."),
    ("A bird can", " fly"), ("A bird can", " swim"), ("A bird can", " run"),
    ("The capital of France is", " Paris."), ("The capital of France is", " Rome."),
    ("The capital of France is", " Madrid."), ("The capital of Italy is", " Rome."),
    ("Question: What color is the sky?\nAnswer:", " blue"),
    ("Question: What color is the sky?\nAnswer:", " white"),
    ("Question: Is the ice hot?\nAnswer:", " no"), ("Question: Is the ice hot?\nAnswer:", " yes"),
    ("Question: Is the sun hot?\nAnswer:", " no"), ("Question: Is the sun hot?\nAnswer:", " yes"),
    ("", "The sky is blue."), ("", " blue"), ("", "blue"), ("", "x"), ("", "The"),
    ("The sky is bl", "ue."), ("The capital of Fra", "nce is Paris."), ("A ca", "t says meow."),
    ("Two and t", "wo is four."), ("sum", "mer"), ("T", "he"), ("The", "se"),
    ("The café serves", " crème brûlée."), ("Le crème ", "brûlée, naïve coöperation"),
    ("日本の首都は", "東京です。"), ("Emoji", " 😀😃 and so on"), ("\u00a0\u2003wide", " space\u3000"),
    ("ends with wide\u3000\u2009", "space"), ("a\tb \t\n ", "c"),
    ("He walked to the market and bought bread, cheese and apples. " * 4, " The sky is blue."),
    ("In winter the days are short, and in summer they are long. " * 8, " long"),
    ("short", " Water boils at one hundred degrees." * 1 + " Monday comes before Tuesday."),
    ("Monday comes before", " Tuesday."), ("Monday comes before", " Tuesday"),
    ("Water boils at one hundred", " degrees."), ("Numbers: 1234567890", " 12 345"),
    ("  leading", " spaces"), ("\n\nlines", "\n\nmore lines\n"), ("UPPER case", " MiXeD"),
    ("<|endoftext|>The sky is", " blue"), ("<s>The sky is", " blue"), ("", "<|endoftext|>The sky"),
    ("", "<s>The sky"), ("The end.", "<|endoftext|>"), ("The end.", "</s>"),
    ("x</s>y", " z"), ("One and one is two.\n\nTwo and one is", " three."),
    ("One and one is two.\n\nTwo and one is", " four."), ("The sky is", " blue"),
    ("A cat says", " meow."), ("The snow is white.", " The coal is black."),
    ("A horse can", " run."), ("A horse", " can run."), ("A", " horse can run."),
]
TEXTS = [
    "The sky is blue.", "x", "The", "The café serves crème brûlée. 日本の首都は東京です。",
    " ".join(SENTENCES[:6]), "\n".join(SENTENCES[:16]), "\n".join(SENTENCES),
    "<|endoftext|>The sky is blue.", "<s>The sky is blue.",
]
PROMPTS = [
    ("The sky is", ["\n"], 8), ("A cat says", ["."], 12), ("The capital of France is", [".", "\n"], 10),
    ("Question: What color is the sky?\nAnswer:", ["\n", "Question:"], 16), ("The", [], 24),
    ("A bird can", ["y"], 12), ("One and one is two.\n\nTwo and one is", [".", ","], 6),
    ("In winter the days are short, and in summer they are long. " * 6, ["."], 16),
    ("The café serves", ["é"], 12), ("A dog says ", ["oof", "wo"], 8), ("Two and", [" is", "and"], 8),
    ("The sky is", ["l", "e"], 6), ("<s>The sky is", ["\n"], 8), ("Monday", [" T", "\n\n"], 30),
]
QUESTIONS = [
    ("The sky is", ["green", "blue", "very hot indeed"], 1),
    ("The grass is", ["green", "blue", "white"], 0),
    ("A cat says", ["woof", "moo", "meow", "a long letter to her friend"], 2),
    ("The capital of Italy is", ["Paris", "Madrid", "Rome", "Tokyo"], 2),
    ("Question: Is the ice hot?\nAnswer:", ["yes", "no"], 1),
    ("Question: What does a cat say?\nAnswer:", ["yes", "no", "meow"], 0),
    ("The café serves", ["crème brûlée", "bread, cheese and apples"], 0),
    ("Two and two is", ["東京です", "four", "three", "two"], 1),
    ("He walked to the market and bought bread, cheese and apples. " * 4 + "The sky is",
     ["white", "blue", "cold"], 1),
    ("A dog says", ["meow", "meow", "woof"], 0),
]
FILTERED = [
    (r"#### (\-?[0-9\.\,]+)", ["#### 12", "x #### -3,400.5 #### 7", "#### ", "", "### 4", "####  5"]),
    (r"(-?[$0-9.,]{2,})|(-?[0-9]+)", ["a 1 b 22 c", "costs $1,234.50.", "7", "none", "-5 -66 -7"]),
    (r"answer: *(.*)", ["the answer: é  \nand", "answer:", "answer: a answer: b"]),
    (r"is(.*)", ["is \t\u3000x\u2003", "this  that "]),
    (r"\d+", ["1 22 333", "日本 42 東京"]),
    (r"(x)?(y)?", ["zzz", "xy", "ay"]),
    (r"x*", ["éxx", "xx", ""]),
]
GSM8K = {"regexes_to_ignore": [",", r"\$", "(?s).*#### ", r"\.$"], "ignore_case": True}
MATCHED = [
    (GSM8K, "1,234", "some text\nwith $3 #### 1234."), (GSM8K, "$12.", "12"), (GSM8K, "12.0", "12"),
    (GSM8K, "A", "x #### a"), ({}, "Paris", "paris"), ({"ignore_case": True}, "ÉCOLE", "école"),
    ({"ignore_punctuation": True}, "it's, so!", "its so"), ({"ignore_punctuation": True}, "a-b", "a b"),
    ({"ignore_case": True, "ignore_punctuation": True}, "\"Rome\".", "rome"),
    ({"regexes_to_ignore": ["x*"]}, "axbx", "ab"), ({"regexes_to_ignore": ["é"]}, "caféé", "caf"),
]


def make_tokenizer(special, bos):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=352, special_tokens=special, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B",
            special_tokens=[(bos, tokenizer.token_to_id(bos))])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[-1],
        clean_up_tokenization_spaces=False)


def train(model, tokenizer, steps):
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    eos = tokenizer.eos_token_id
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        chosen = torch.randint(0, len(SENTENCES), (8,), generator=generator).tolist()
        rows = [(tokenizer.encode(SENTENCES[i]) + [eos])[:48] for i in chosen]
        length = max(map(len, rows))
        ids = torch.tensor([row + [eos] * (length - len(row)) for row in rows])
        labels = torch.tensor([row + [-100] * (length - len(row)) for row in rows])
        optimizer.zero_grad()
        model(ids, labels=labels).loss.backward()
        optimizer.step()


def make_model(name, config, tokenizer, steps=160):
    torch.manual_seed(1)
    directory = os.path.join(HERE, name)
    shutil.rmtree(directory, ignore_errors=True)
    model = transformers.AutoModelForCausalLM.from_config(config)
    train(model, tokenizer, steps)
    model.eval().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def instances(kind, arguments):
    return [Instance(request_type=kind, doc={}, arguments=a, idx=0) for a in arguments]


def loglikelihood(lm, pair):
    """(None, None) where it asserts: the continuation adds no token to its context."""
    try:
        [(ll, greedy)] = lm.loglikelihood(instances("loglikelihood", [pair]), disable_tqdm=True)
        return ll, bool(greedy)
    except AssertionError:
        return None, None


def samples(lm, chat):
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "questions.jsonl")
        with open(path, "w", encoding="utf-8") as f:
            for query, choices, gold in QUESTIONS:
                f.write(json.dumps({"query": query, "choices": choices, "gold": gold}) + "\n")
        metrics = ["acc", "acc_norm", "acc_bytes", "acc_mutual_info"]
        task = {"task": "questions", "dataset_path": "json", "test_split": "test",
                "dataset_kwargs": {"data_files": {"test": path}, "cache_dir": directory},
                "output_type": "multiple_choice", "doc_to_text": "{{query}}",
                "doc_to_target": "{{gold}}", "doc_to_choice": "choices",
                "metric_list": [{"metric": metric} for metric in metrics]}
        results = lm_eval.simple_evaluate(
            model=lm, tasks=[task], log_samples=True, apply_chat_template=chat,
            fewshot_as_multiturn=False, bootstrap_iters=0)
    found = sorted(results["samples"]["questions"], key=lambda sample: sample["doc_id"])
    return [{"arguments": sample["arguments"], "lls": [r[0] for r in sample["filtered_resps"]],
             **{metric: sample[metric] for metric in metrics}} for sample in found]


def filters():
    filtered, matched = [], []
    for pattern, texts in FILTERED:
        for last in (False, True):
            results = RegexFilter(pattern, group_select=-1 if last else 0).apply(
                [[text] for text in texts], None)
            filtered += [[pattern, last, text, result[0]] for text, result in zip(texts, results)]
    for options, answer, reference in MATCHED:
        result = exact_match_hf_evaluate([answer], [reference], **options)["exact_match"]
        matched.append([options, answer, reference, float(result)])
    return {"filtered": filtered, "matched": matched}


def answers(directory):
    lm = HFLM(pretrained=directory, dtype="float32", device="cpu", batch_size=1)
    scores = [loglikelihood(lm, pair) for pair in PAIRS]
    rolling = lm.loglikelihood_rolling(instances("loglikelihood_rolling", [(t,) for t in TEXTS]),
                                       disable_tqdm=True)
    requests = [(p, {"until": list(until), "max_gen_toks": n, "do_sample": False})
                for p, until, n in PROMPTS]
    texts = lm.generate_until(instances("generate_until", requests), disable_tqdm=True)
    return {
        "max_length": lm.max_length,
        "loglikelihood": [[*pair, ll, greedy] for pair, (ll, greedy) in zip(PAIRS, scores)],
        "loglikelihood_rolling": [[text, float(ll)] for text, ll in zip(TEXTS, rolling)],
        "generate_until": [[*prompt, text] for prompt, text in zip(PROMPTS, texts)],
        "choices": samples(lm, False),
        **({"chat": samples(lm, True)} if lm.tokenizer.chat_template else {}),
    }


def windows(n, max_len):
    found = get_rolling_token_windows(list(range(n)), -1, max_len, 1)
    return [n, max_len, [list(make_disjoint_window(pair)) for pair in found]]


def write(path, value):
    with open(os.path.join(HERE, path), "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, indent=1)
        f.write("\n")


def main():
    gpt2 = make_tokenizer(["<|endoftext|>"], None)
    ids = dict(bos_token_id=gpt2.bos_token_id, eos_token_id=gpt2.eos_token_id)
    config = transformers.GPT2Config(vocab_size=len(gpt2), n_positions=64, n_embd=32, n_layer=2,
                                     n_head=4, n_inner=64, resid_pdrop=0, embd_pdrop=0,
                                     attn_pdrop=0, initializer_range=0.1, **ids)
    write("gpt2_words/expected.json", answers(make_model("gpt2_words", config, gpt2)))

    llama = make_tokenizer(["<s>", "</s>"], "<s>")
    llama.chat_template = CHAT
    ids = dict(bos_token_id=llama.bos_token_id, eos_token_id=llama.eos_token_id)
    config = transformers.LlamaConfig(
        vocab_size=len(llama), max_position_embeddings=48, hidden_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, intermediate_size=64,
        tie_word_embeddings=True, initializer_range=0.1, **ids)
    write("llama_words/expected.json", answers(make_model("llama_words", config, llama)))
    write("questions.json", QUESTIONS)
    write("filters.json", filters())
    write("windows.json", [windows(n, m) for m in (1, 2, 3, 4, 7) for n in range(15)])


if __name__ == "__main__":
    main()
