#!/usr/bin/env python3
"""Writes data_pipeline/unicode_ranges.h: the character classes that the tokenizer's rules speak of, as
the real library has them. Made with tokenizers 0.23.3 (its regex engines and normaliser each carry a
Unicode version of their own, so the classes are asked for, code point by code point).

    make_unicode_ranges.py > data_pipeline/unicode_ranges.h && clang-format -i data_pipeline/unicode_ranges.h
"""
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

ALL = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def regex_class(pattern):
    """Code points that the pre-tokenizers' regex engine puts in a class."""
    split = pre_tokenizers.Split(Regex(pattern), "removed")
    found = set()
    for begin in range(0, len(ALL), 4096):
        chunk = ALL[begin : begin + 4096]
        kept = {ord(c) for piece, _ in split.pre_tokenize_str("".join(map(chr, chunk))) for c in piece}
        found.update(c for c in chunk if c not in kept)
    return found


def word_class():
    """Code points that count as part of a word next to an added token with single_word."""
    tokenizer = Tokenizer(models.BPE(vocab={"?": 0}, merges=[], unk_token="?"))
    tokenizer.add_tokens([AddedToken("Q", single_word=True, normalized=False)])
    token = tokenizer.token_to_id("Q")
    found = set()
    for begin in range(0, len(ALL), 4096):
        chunk = [c for c in ALL[begin : begin + 4096] if c != ord("Q")]
        encoding = tokenizer.encode("".join(" Q" + chr(c) + " " for c in chunk))
        starts = {offset[0] for offset, id in zip(encoding.offsets, encoding.ids) if id == token}
        found.update(c for i, c in enumerate(chunk) if 4 * i + 1 not in starts)
    return found | {ord("Q")}


nfc = normalizers.NFC().normalize_str


def composing_pairs():
    """Pairs of code points that NFC joins, Hangul left out."""
    for c in ALL:
        parts = unicodedata.decomposition(chr(c)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            first, second = (int(p, 16) for p in parts)
            if nfc(chr(first) + chr(second)) != chr(first) + chr(second):
                yield first, second


def nfc_active_class():
    """Code points that NFC changes, reorders or may join to the one before. All others end a run."""
    active = {c for c in ALL if nfc(chr(c)) != chr(c)}
    for c in ALL:  # a combining class: trades places with a mark of class 1 after it, or of 230 before it
        after, before = nfc("\u5b57" + chr(c) + "\u0334"), nfc("\u5b57\u0301" + chr(c))
        if c not in (0x334, 0x301) and (after[1] == "\u0334" or before[2:] == "\u0301"):
            active.add(c)
    active |= {0x334, 0x301}
    active.update(second for _, second in composing_pairs())
    active.update(range(0x1161, 0x1176))  # Hangul vowels and final consonants
    active.update(range(0x11A8, 0x11C3))
    return active


def nfc_first_class():
    """Code points that NFC may join with one after: also those that come apart for it."""
    nfd = normalizers.NFD().normalize_str
    first = {first for first, _ in composing_pairs()} | {c for c in ALL if nfd(chr(c)) != chr(c)}
    first.update(range(0x1100, 0x1113))  # Hangul initial consonants and syllables
    first.update(range(0xAC00, 0xD7A4))
    return first


def print_ranges(name, comment, members):
    ranges = []
    for c in sorted(members):
        if ranges and ranges[-1][1] == c - 1:
            ranges[-1][1] = c
        else:
            ranges.append([c, c])
    print(f"/* {comment} */")
    print(f"static const lt_code_range {name}[] = {{")
    print(",".join(f"{{0x{a:X},0x{b:X}}}" for a, b in ranges))
    print("};\n")


print("""/* Character classes as ranges of code points, made by tests/golden/make_unicode_ranges.py: as the
 * tokenizers library 0.23.3 has them, so that ids do not depend on the Unicode version of a system
 * library. Included by unicode_classes.c only. */
#ifndef LT_DATA_PIPELINE_UNICODE_RANGES_H
#define LT_DATA_PIPELINE_UNICODE_RANGES_H

#include <stdint.h>

typedef struct lt_code_range {
    uint32_t first, last; /* inclusive */
} lt_code_range;
""")
print_ranges("lt_letter_ranges", r"\\p{L} of the pre-tokenizers' patterns".replace("\\\\", "\\"), regex_class(r"\p{L}"))
print_ranges("lt_number_ranges", r"\p{N} of the pre-tokenizers' patterns", regex_class(r"\p{N}"))
print_ranges("lt_space_ranges", r"\s", regex_class(r"\s"))
print_ranges("lt_word_ranges", r"\w: what an added token with single_word must not touch", word_class())
print_ranges("lt_nfc_active_ranges", "changed, reordered or joined to the one before by NFC", nfc_active_class())
print_ranges("lt_nfc_first_ranges", "joined to the one after by NFC", nfc_first_class())
print("#endif")
