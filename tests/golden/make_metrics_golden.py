#!/usr/bin/env python3
"""Reference values for the metrics of evaluation, made with the libraries that define them.

    make_metrics_golden.py          writes metrics/texts.json, statistics.json, random.json

Made with Python 3.11, rouge_score 0.1.2, sacrebleu 2.6.0, lm_eval 0.4.13. SQuAD's metrics have no
installable library; squad_words() and what uses it follow their published definition
(huggingface/evaluate, metrics/squad): lower case, no punctuation, no articles, single spaces.
"""
import collections
import json
import os
import random
import re
import string

os.environ["DISABLE_MULTIPROC"] = "1"
from lm_eval.api import metrics as harness
from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "metrics")

PAIRS = [
    ("", ["something"]),
    ("something", [""]),
    ("", [""]),
    ("...", ["!!"]),
    ("the", ["a"]),
    ("The mill stands by the river.", ["The mill stands by the river."]),
    ("the MILL stands by a river", ["The mill stands by the river."]),
    ("river the by stands mill The", ["The mill stands by the river."]),
    ("mill mill mill mill", ["The mill stands by the mill."]),
    ("The mill", ["The mill stands by the river and turns all day long."]),
    ("The mill stands by the river and turns all day long.", ["The mill"]),
    ("It is 41 metres tall.", ["41 metres", "Forty-one metres", "It is 41 m tall."]),
    ("41", ["forty", "41"]),
    ("A cat, an owl and the dog.", ["cat owl and dog"]),
    ("an anthem for the theatre", ["anthem for theatre"]),
    ("the-a an'the a_the the.a", ["thea anthe athe thea"]),
    ("a\u0301 the\u0301 an", ["\u0301 \u0301"]),
    ("naïve CAFÉ in ÅRHUS", ["naïve café in århus"]),
    ("ΟΔΟΣ ΣΟΦΟΣ", ["οδος σοφος"]),
    ("ΟΔΟΣ ΣΟΦΟΣ", ["οδός σοφός", "οδοσ σοφοσ"]),
    ("İSTANBUL", ["istanbul"]),
    ("Kelvin 300 K", ["kelvin 300 k"]),
    ("ＦＵＬＬ　ｗｉｄｔｈ words", ["ｆｕｌｌ ｗｉｄｔｈ words"]),
    ("漢字 と かな 。", ["漢字 と カナ 。"]),
    ("🙂 happy 🙂", ["🙂 happy"]),
    ("tab\tand\u00a0hard\u2003space\u3000here", ["tab and hard space here"]),
    ("separators\x1cand\x85next line", ["separators and next line"]),
    ("under_score and snake_case", ["underscore and snakecase"]),
    ("first line\nsecond line\nthird line", ["first line\nthird line"]),
    ("second line\nfirst line", ["first line\nsecond line\n"]),
    ("one two three\none two three", ["one two three"]),
    ("one two three", ["one two three\none two three\none two four"]),
    ("\n\n", ["\n"]),
    ("...\nwords here", ["!!!\nwords here\n\n???"]),
    ("the river bends north\nthe mill stands south", ["the mill stands by the river\nit bends north and south"]),
    ("a b c d e f", ["f e d c b a"]),
    ("a b a b a b a b", ["a b a b"]),
    ("b a b a b a", ["a b a b a b a"]),
    ("Hello, world! It's $3.50-ish (a-b) 1,000.", ["Hello world! It is $3.50 (a-b), about 1,000."]),
    ("It cost 3.50, then 4,000.00; now -5.", ["It cost 3.50 then 4,000.00, now -5."]),
    ("end.Start , next,word .5 5. 5.x x.5", ["end. Start, next, word .5 5. 5.x x.5"]),
    ("1-2 1 - 2 one-two 3-four five-6", ["1 - 2 1-2 one-two 3 -four five-6"]),
    ("&quot;quoted&quot; &amp; &lt;tag&gt; &amp;lt;", ["\"quoted\" & <tag> &lt;"]),
    ("<skipped>word hyphen-\nated line\nbreak", ["word hyphenated line break"]),
    ("x{y}z [1] a\\b c^d_e`f g|h~i j@k", ["x { y } z [1] a\\b c^d _e` f g|h ~i j @ k"]),
    ("semi;colon:slash/star*plus+equal=percent%hash#", ["semi ; colon : slash / star * plus + equal = percent % hash #"]),
    ("“curly” ‘quotes’ – dash — dash… dots", ["\"curly\" 'quotes' - dash - dash... dots"]),
    ("é.é ,é, 9.é é.9", ["é . é , é , 9.é é.9"]),
    ("trailing space \u00a0\u3000 \n", ["trailing space"]),
    ("..,,.. ,. ., 1.,2 1,.2", [".. ,, .. ,. ., 1 .,2 1, .2"]),
    ("It is one, two and three.", ["It is one.", "It is one, two, three and four, I think.", "Two and three."]),
    ("the cat is on the mat today", ["a cat sat on the mat", "there is a cat on the mat today you know"]),
    ("same length here", ["same length two", "other one", "this is of four"]),
    ("w1 w2 w3 w4 w5", ["w1 w2 w3", "w1 w2 w3 w4 w5 w6 w7"]),
    ("banana, pizza, opera", ["banan pizz oper"]),
]

SENTENCES = [
    "The old water tower of Brackenford is 41 metres tall, and nobody has climbed it since 1987.",
    "Mina asked the baker for two loaves; he gave her three and would not take the money.",
    "Before the bridge was built, a ferry crossed the river twice a day.",
    "The committee's report lists 12 causes, of which only four (4) were new.",
    "Rain fell on the hills, on the roofs and on the long road to the coast.",
    "\"Who left the gate open?\" said the farmer, but the sheep did not answer.",
    "Ships from Åland brought salt, tar and news; they took wool, rye and letters.",
    "Every student who hands in the work by Friday at 5 p.m. gets it back on Monday.",
]

TOKENIZER_CASES = [
    "", " ", "a", ".", "-", "1", "1.", ".1", "1.1", "1-1", "-1", "a-1", "1-a", "1--1", "a.b", "a,b", "1,b", "a,1",
    "&", "&amp;amp;", "&quot", "&gt;&lt;&quot;", "don't 'quote' '", "tab\there\rreturn\x0bfeed\x0c",
    "a\nb-\nc\n", "-\n-\n", "<skipped>", "< skipped>", "<skip<skipped>ped>", "$1,234.56!", "1.2.3.4", "a..b", "1..2",
    "…", "3…4", "é-1", "1-é", "٣.٤ ٣-٤", "x\u200by", "x\u2028y", "  lead and trail  ", "\\", "`~|", "#@!",
    "http://example.org/a?b=c&d=e", "C++ and C#", "5%-10%", "(1)-(2)", "100-metre", "19.-20.",
]

LOWER_CASES = [
    "ΑΣ", "ΑΣ.", "ΑΣΑ", "Σ", " Σ", "ΑΣ Α", "Α.Σ", "ΑΣ'Α", "ΑΣ\u0301", "Α\u0301Σ", "1Σ", "ΑΣ1", "ΣΣΣ", "İI", "ẞßŒ",
    "ǅǄǆ", "ⅣⒶ", "ԱԲ", "ꭰᏸᎠ", "𐐀𞤀", "ÀÉÎ", "АБВ",
]


def mutate(rng, text):
    words = text.split(" ")
    for _ in range(rng.randrange(1, 6)):
        at, kind = rng.randrange(len(words)), rng.randrange(6)
        if kind == 0 and len(words) > 2:
            del words[at]
        elif kind == 1:
            words.insert(at, words[rng.randrange(len(words))])
        elif kind == 2:
            words[at] = words[at].upper()
        elif kind == 3:
            words[at] = rng.choice(["the", "tower", "1987,", "river.", "(and)", "x-ray"])
        elif kind == 4:
            words[at] += "\n"
        else:
            other = rng.randrange(len(words))
            words[at], words[other] = words[other], words[at]
    return " ".join(words)


def made_pairs():
    rng = random.Random(5)
    pairs = []
    for i in range(72):
        text = SENTENCES[i % len(SENTENCES)]
        count = 1 + i % 3
        pairs.append((mutate(rng, text), [mutate(rng, text) for _ in range(count)]))
    return pairs


def squad_words(text):
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", text, flags=re.UNICODE).split()


def squad_f1(answer, reference):
    answer, reference = squad_words(answer), squad_words(reference)
    common = sum((collections.Counter(answer) & collections.Counter(reference)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(answer), common / len(reference)
    return 2 * precision * recall / (precision + recall)


def bleu_row(answer, references):
    length, wanted, *counts = BLEU()._extract_corpus_statistics([answer], [[r] for r in references])[0]
    return [*counts, length, wanted]


def corpus_bleu(pairs):
    """References in streams, as sacrebleu wants them; None where a pair has fewer."""
    most = max(len(references) for _, references in pairs)
    streams = [[references[i] if i < len(references) else None for _, references in pairs] for i in range(most)]
    return BLEU().corpus_score([answer for answer, _ in pairs], streams).score


def text_values(answer, references):
    types = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    rouge = rouge_scorer.RougeScorer(types, use_stemmer=False).score_multi(references, answer)
    return {
        "answer": answer,
        "references": references,
        "f1": max(squad_f1(answer, r) for r in references),
        "exact": float(max(squad_words(answer) == squad_words(r) for r in references)),
        "rouge": [float(rouge[t].fmeasure) for t in types],
        "bleu": bleu_row(answer, references),
    }


def write(name, value):
    """One line for each element of the lists at the top."""
    parts = [f"{json.dumps(key)}: [\n" + ",\n".join(json.dumps(v, ensure_ascii=False) for v in values) + "]"
             if isinstance(values, list) else f"{json.dumps(key)}: {json.dumps(values, ensure_ascii=False)}"
             for key, values in value.items()]
    with open(os.path.join(HERE, name), "w", encoding="utf-8") as file:
        file.write("{\n" + ",\n".join(parts) + "\n}\n")


def write_texts():
    pairs = PAIRS + made_pairs()
    corpora = [(0, len(pairs)), (5, 6), (7, 12), (38, 54), (55, 127), (55, 60), (0, 5), (50, 53), (9, 11), (9, 10)]
    tokenizer = BLEU().tokenizer
    write("texts.json", {
        "pairs": [text_values(*pair) for pair in pairs],
        "corpora": [{"from": a, "to": b, "bleu": corpus_bleu(pairs[a:b])} for a, b in corpora],
        "tokens": [[text, tokenizer(text.rstrip())] for text in
                   TOKENIZER_CASES + [answer for answer, _ in PAIRS] + [r[0] for _, r in PAIRS]],
        "lower": [[text, text.lower()] for text in LOWER_CASES],
    })


def write_statistics():
    rng = random.Random(9)
    logs = [-rng.expovariate(0.4) for _ in range(37)]
    shares = [rng.randrange(2) for _ in range(41)]
    pairs = [pair for pair in made_pairs()[:36] if len(pair[1]) == 2]
    items = [(references, answer) for answer, references in pairs]
    write("statistics.json", {
        "mean": {"values": shares, "value": harness.mean(shares), "stderr": harness.mean_stderr(shares)},
        "perplexity": {
            "values": logs,
            "value": harness.perplexity(logs),
            "stderr": {str(n): harness.bootstrap_stderr(harness.perplexity, logs, n)
                       for n in (2, 100, 999, 1000, 2999, 3000)},
        },
        "bleu": {
            "pairs": [{"answer": a, "references": r} for a, r in pairs],
            "value": harness.bleu(items),
            "stderr": {str(n): harness.bootstrap_stderr(harness.bleu, items, n) for n in (100,)},
        },
    })


def write_random():
    cases = []
    bounds = [1, 2, 3, 10, 1000, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**40, 2**63 + 1]
    samples = [(0, 0), (1, 1), (5, 5), (10, 3), (21, 5), (22, 5), (85, 6), (86, 6), (100, 7), (1000, 25), (5000, 90),
               (100000, 5), (100000, 100)]
    for seed in (0, 1, 1234, 2**32 - 1, 2**32, 2**40 + 7, 2**63 + 5):
        rng = random.Random(seed)
        case = {"seed": str(seed), "first": [rng.random() for _ in range(3)]}
        for _ in range(700):
            rng.random()
        case["later"] = [rng.random() for _ in range(3)]
        case["below"] = [[str(b), str(rng.randrange(b))] for b in bounds]
        case["samples"] = [[n, k, rng.sample(range(n), k)] for n, k in samples]
        cases.append(case)
    write("random.json", {"cases": cases})


if __name__ == "__main__":
    os.makedirs(HERE, exist_ok=True)
    write_texts()
    write_statistics()
    write_random()
