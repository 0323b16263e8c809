#!/usr/bin/env python3
"""Writes tests/golden/tokenizer/: small made-up tokenizers of every supported kind, and what the real library makes of
texts with them. Made with tokenizers 0.23.3.

    make_tokenizer_golden.py

One NAME.json per tokenizer, and golden.json: {"texts": [...], "cases": [{"tokenizer", "special": parsed or not,
"add": special tokens added or not, "ids": [per text], "decoded": [per text], "skipped": [decoded without special]}]}.
"""
import json
import pathlib

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).parent
OUT = HERE / "tokenizer"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")

CORPUS = [
    "The miller's daughter couldn't carry 12 sacks; she'd carry 3, and they'll fetch the rest by 10:45.",
    "I'LL SAY IT'S FINE, we've said. You're late, I'm not, he'd go.",
    "    def mill(x):\n        return x * 2  # twice\n\n\n\tend\r\n",
    "na\u00efve caf\u00e9 cafe\u0301 \u2014 \u6f22\u5b57 \U0001f642\U0001f642 \u0938\u094d\u0924\u0947 \uac00\uac01 \u00c5ngstr\u00f6m",
    "The mill, the mill, the stone and the water; water and stone and mill.",
    "\u017fa '\u017fa " * 8,  # letters that merge over the end of a contraction
] * 3

TEXTS = [
    "", " ", "  ", "     x", "\n", "\n\n \n", "a\r\n\r\nb", "\t\t tab", "The mill's stone", "THE MILL'S STONE",
    "I'll won't 's \u017f 12345", "'\u017f '\u017fa 'S 'LLama 'Ve 'rE 'x ''s", "don't  stop\u00a0now\u3000wide \u2003em\u2028line",
    "x=12345;y=6.78 \u0663\u0664 \u00bd\u2167 1\u0660\u06612", "na\u00efve cafe\u0301 \u2014 \u6f22\u5b57 \U0001f642", "a\u0323\u0302 a\u0302\u0323 \u1ea5\u0323 \u01d5 \u0120\u0327",
    "\u1112\u1161\u11ab \ud558\u11ab \uac00\u11a8 \u212b\u2126\u212a \u0344 \u0958 \u1e9b\u0323 \ufb01", "\U0001e08f\u0338 \U000105d2\u0307 \U00011935\U00011930",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \ufeffbom \u0000nul\u0001", "word\u0301 _under_ snake_case __init__",
    "<s>a</s> <s> b", "<|end|>a<|pad|> <|end|><|end|>", "left  <l>  right <r>   both  <b>  none <n> ", "one1 one one.one (one) on\u00e9 oneone one\u0301",
    "\u00c5key A\u030akey akey", "tail<|en", "  two  spaces   three    four     five", "\u2581\u2581a \u2581b", "<0x41><0xE2><0x96><0x81>",
    "the water the water\nthe mill\n" * 3, "zzzqqqjjj\u4e00\u4e01\U0001f600", "mill" * 20 + " " + "ab" * 40, "e\u0301" * 12 + "\u0301\u0323\u0327\u0334" * 6,
    "    def mill(x):\n        return x * 2  # twice\n\n\n\tend\r\n",
    "themillerandthewaterstonecouldnthesheretchandinthemill" * 4,  # long words keep a heap
    "abcdefghijk abcdefghijx abcdefghxjk stonemill stonemile watermillstone watermillstane",  # alike at first
    "abcdefghijklmnopqrst abcdefghijklmnopqrsx " * 2, "a    <r>     b <r> <r>  ", "x'\u017fa\n'\u017fa",
]


def added(content, **flags):
    entry = dict(id=None, content=content, single_word=False, lstrip=False, rstrip=False, normalized=False, special=False)
    entry.update(flags)
    return entry


def number(tokenizer):
    """Ids of the added tokens as the library counts them."""
    vocab = tokenizer["model"]["vocab"]
    following = len(vocab)
    for entry in tokenizer["added_tokens"]:
        if entry["content"] in vocab:
            entry["id"] = vocab[entry["content"]]
        else:
            entry["id"] = following
            following += 1
    return tokenizer


def byte_level(size, pretokenizer):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pretokenizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False))
    return json.loads(tokenizer.to_str())


def split_then_bytes(regex):
    return {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]}


def template(before, after, ids):
    piece = lambda name: {"SpecialToken": {"id": name, "type_id": 0}}
    return {"type": "TemplateProcessing", "single": [piece(b) for b in before] + [{"Sequence": {"id": "A", "type_id": 0}}] + [piece(a) for a in after],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {n: {"id": n, "ids": [ids[n]], "tokens": [n]} for n in before + after}}


def id_of(tokenizer, content):
    return next(a["id"] for a in tokenizer["added_tokens"] if a["content"] == content)


def gpt2():
    t = byte_level(380, pre_tokenizers.ByteLevel(add_prefix_space=False))
    t["added_tokens"] = [added("<|end|>", normalized=True, special=True)]
    t["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    t["model"]["merges"] = [" ".join(m) for m in t["model"]["merges"]]  # the older spelling
    return number(t)


def neox():
    t = byte_level(360, pre_tokenizers.ByteLevel(add_prefix_space=False))
    t["normalizer"] = {"type": "NFC"}
    t["added_tokens"] = [added("<|end|>", special=True), added("<|pad|>", special=True)] + [added(" " * n, normalized=True) for n in range(6, 1, -1)] + [added("A\u030akey", normalized=True)]
    return number(t)


def llama3():
    t = byte_level(400, pre_tokenizers.ByteLevel(add_prefix_space=False))
    t["pre_tokenizer"] = split_then_bytes(LLAMA3)
    t["added_tokens"] = [added("<|end|>", special=True), added("<|pad|>", special=True)]
    number(t)
    vocab = t["model"]["vocab"]  # whole words that merging does not reach
    for word in ("\u0120waterwheel", "stonemill", "\u0120couldn", "qqq"):
        vocab[word] = len(vocab)
    number(t)
    t["model"]["ignore_merges"] = True
    ids = {a["content"]: a["id"] for a in t["added_tokens"]}
    t["post_processor"] = {"type": "Sequence", "processors": [
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        template(["<|end|>"], ["<|pad|>", "<|end|>"], ids)]}
    return t


def qwen2():
    t = byte_level(380, pre_tokenizers.ByteLevel(add_prefix_space=False))
    t["normalizer"] = {"type": "NFC"}
    t["pre_tokenizer"] = split_then_bytes(QWEN2)
    t["added_tokens"] = [added("<|end|>", special=True), added("<l>", lstrip=True), added("<r>", rstrip=True, special=True), added("<b>", lstrip=True, rstrip=True),
                         added("<n>", normalized=True), added("one", single_word=True), added("\u00e9", normalized=True)]
    return number(t)


def prefix():
    t = byte_level(340, pre_tokenizers.ByteLevel(add_prefix_space=False))
    t["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    t["added_tokens"] = [added("one", single_word=True, normalized=True), added("<r>", rstrip=True, lstrip=True), added("  ", rstrip=True, lstrip=True)]
    return number(t)


def sentencepiece(fallback, fuse_unk):
    """Llama-2's way. Characters that are not in the vocabulary become bytes, or <unk>."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    corpus = ["\u2581" + text.replace(" ", "\u2581") for text in CORPUS]
    specials = ["<unk>", "<s>", "</s>"] + ([f"<0x{b:02X}>" for b in range(256)] if fallback else [])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=200 + len(specials), limit_alphabet=60, special_tokens=specials, show_progress=False))
    t = json.loads(tokenizer.to_str())
    t["added_tokens"] = [added(c, special=True) for c in ("<unk>", "<s>", "</s>")]
    t["pre_tokenizer"] = None
    t["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]}
    t["decoder"] = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
                                                     {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    t["model"]["byte_fallback"] = fallback
    t["model"]["fuse_unk"] = fuse_unk
    number(t)
    t["post_processor"] = template(["<s>"], [], {a["content"]: a["id"] for a in t["added_tokens"]})
    return t


def llama2():
    return sentencepiece(True, True)


def llama2_added():
    t = sentencepiece(True, True)
    t["added_tokens"] += [added("<n>", normalized=True), added("<r>", rstrip=True, special=True), added("one", single_word=True)]
    return number(t)


def unknown():
    return sentencepiece(False, False)


def unknown_fused():
    return sentencepiece(False, True)


def bytes_missing():
    """Some fallback bytes are not there: unknown characters are held back and overtaken."""
    t = sentencepiece(True, True)
    for byte in ("<0xF0>", "<0xC3>"):
        t["model"]["vocab"]["gone" + byte] = t["model"]["vocab"].pop(byte)
    return t


def metaspace():
    t = sentencepiece(True, True)
    t["normalizer"] = None
    t["pre_tokenizer"] = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
    return t


def metaspace_split():
    t = sentencepiece(True, True)
    t["normalizer"] = None
    t["pre_tokenizer"] = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    t["decoder"] = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    return t


def main():
    OUT.mkdir(exist_ok=True)
    cases = []
    kinds = (gpt2, neox, llama3, qwen2, prefix, llama2, llama2_added, unknown, unknown_fused, bytes_missing, metaspace, metaspace_split)
    for kind in kinds:
        path = OUT / (kind.__name__ + ".json")
        path.write_text(json.dumps(kind(), ensure_ascii=False, indent=0) + "\n")
        tokenizer = Tokenizer.from_file(str(path))
        for special, add in ((True, True), (False, False)):
            tokenizer.encode_special_tokens = not special
            ids = [tokenizer.encode(text, add_special_tokens=add).ids for text in TEXTS]
            case = {"tokenizer": path.name, "special": special, "add": add, "ids": ids}
            if special:
                case["decoded"] = [tokenizer.decode(i, skip_special_tokens=False) for i in ids]
                case["skipped"] = [tokenizer.decode(i, skip_special_tokens=True) for i in ids]
            cases.append(case)
    # NUL can not stand in the test's JSON reader: such texts are given as lists of pieces around it
    pieces = lambda text: text if text is None or "\0" not in text else text.split("\0")
    for case in cases:
        for key in ("decoded", "skipped"):
            if key in case:
                case[key] = [pieces(text) for text in case[key]]
    golden = {"texts": [pieces(text) for text in TEXTS], "cases": cases}
    lines = json.dumps(golden, ensure_ascii=True, separators=(",", ":")).replace("]],", "]],\n").replace('{"tokenizer"', '\n{"tokenizer"')
    (OUT / "golden.json").write_text(lines + "\n")


main()
