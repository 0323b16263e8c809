#!/usr/bin/env python3
"""Makes tests/golden/tasks/*.json: what lm-evaluation-harness asks of the small task files there.

Made with lm_eval 0.4.13, datasets 5.2.0, transformers 5.24.0 and torch 2.15.0 (f32, CPU):
    OMP_NUM_THREADS=1 python tests/golden/make_task_golden.py
The task files (*.jsonl) were written for this project. Each is read by lm_eval's own task of its
name, with dataset_path: json in place of the Hub; the generic ones by the YAML that Lathe writes for
them (*.yaml, checked in; PATH stands for the folder).
    requests.json   for each task file: facts of the task, the arguments of all its requests without
                    examples ("requests", by document), and with examples ("shots") the XXH3-128 of a
                    document's arguments, joined by line feeds; as conversations ("turns") that of
                    their contexts, each the JSON of its messages
    results.json    lm_eval.simple_evaluate of the models of tests/golden/evaluation, with 16 new
                    tokens at most: results, and the documents' samples
No test runs this file.
"""
import json
import logging
import os
import sys
import tempfile

import datasets
import xxhash
from lm_eval import evaluator, tasks as lm_eval_tasks
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks._yaml_loader import load_yaml

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tasks")
MODELS = os.path.join(os.path.dirname(HERE), "evaluation")
OFFICIAL = os.path.dirname(lm_eval_tasks.__file__)

# word for Lathe, YAML of lm_eval, file of examples
PUBLISHED = [
    ("hellaswag", "hellaswag.jsonl", "hellaswag/hellaswag.yaml", "hellaswag_train.jsonl"),
    ("arc_easy", "arc_easy=arc.jsonl", "arc/arc_easy.yaml", "arc_train.jsonl"),
    ("arc_challenge", "arc_challenge=arc.jsonl", "arc/arc_challenge.yaml", "arc_train.jsonl"),
    ("openbookqa", "openbookqa.jsonl", "openbookqa/openbookqa.yaml", "openbookqa_train.jsonl"),
    ("piqa", "piqa.jsonl", "piqa/piqa.yaml", "piqa_train.jsonl"),
    ("sciq", "sciq.jsonl", "sciq/sciq.yaml", "sciq_train.jsonl"),
    ("boolq", "boolq.jsonl", "super_glue/boolq/default.yaml", "boolq_train.jsonl"),
    ("winogrande", "winogrande.jsonl", "winogrande/default.yaml", "winogrande_train.jsonl"),
    ("mmlu", "mmlu.jsonl", "mmlu/default/mmlu_anatomy.yaml", "mmlu_dev.jsonl"),
    ("truthfulqa_mc1", "truthfulqa_mc1=truthfulqa.jsonl", "truthfulqa/truthfulqa_mc1.yaml", None),
    ("truthfulqa_mc2", "truthfulqa_mc2=truthfulqa.jsonl", "truthfulqa/truthfulqa_mc2.yaml", None),
    ("lambada_openai", "lambada_openai=lambada.jsonl", "lambada/lambada_openai.yaml", None),
    ("gsm8k", "gsm8k.jsonl", "gsm8k/gsm8k.yaml", "gsm8k_train.jsonl"),
    ("triviaqa", "triviaqa.jsonl", "triviaqa/default.yaml", "triviaqa_train.jsonl"),
    ("wikitext", "wikitext.jsonl", "wikitext/wikitext.yaml", None),
]
GENERIC = ["choices", "several_right", "copies", "cloze", "texts", "answers", "grounded"]
# generic files with examples of another file
GENERIC_EXAMPLES = {"choices": "copies.jsonl", "answers": "answers_train.jsonl"}
SHOTS = (1, 3, 5)


def path_of(word):
    return os.path.join(HERE, word.split("=")[-1])


def count_different(path):
    with open(path, encoding="utf-8") as file:
        return len(set(file))


def published_config(yaml, path, examples, itself):
    """The official task over local files. itself: examples come from the file that is asked."""
    config = load_yaml(os.path.join(OFFICIAL, yaml), resolve_func=True)
    config = {k: v for k, v in config.items() if k not in ("tag", "task_alias", "dataset_name")}
    files = {config.get(s): path for s in ("validation_split", "test_split") if config.get(s)}
    if itself:
        for split in ("training_split", "validation_split"):
            config.pop(split, None)
        config.update(test_split="test", fewshot_split="test")
        files = {"test": path}
    elif examples:
        files[config.get("fewshot_split") or config.get("training_split")] = examples
    else:
        for split in ("training_split", "fewshot_split"):
            config.pop(split, None)
    config.update(dataset_path="json", dataset_kwargs={"data_files": files})
    return config


def make_task(config, num_fewshot):
    task = ConfigurableTask(config=dict(config))
    if task.config.num_fewshot != 0 and num_fewshot is not None:
        task.set_config("num_fewshot", num_fewshot)
    if task.config.num_fewshot is None:
        task.set_config("num_fewshot", 0)
    task.set_fewshot_seed(1234)
    return task


def dump_messages(messages, add_generation_prompt=True):
    return json.dumps(messages, ensure_ascii=False)


def ask(config, num_fewshot, chat=False):
    """[arguments of each request] of each document."""
    task = make_task(config, num_fewshot)
    if chat:
        task.build_all_requests(apply_chat_template=True, fewshot_as_multiturn=True,
                                chat_template=dump_messages, tokenizer_name="none")
    else:
        task.build_all_requests()
    documents = {}
    for instance in task.instances:
        texts = [a for a in instance.args if isinstance(a, str)]
        documents.setdefault(instance.doc_id, []).append(texts)
    return task, [documents[i] for i in range(len(documents))]


def hash_of(requests):
    joined = "\n".join(text for request in requests for text in request)
    return xxhash.xxh3_128_hexdigest(joined.encode())


def facts_of(task):
    """What decides how answers are compared."""
    facts = {"output_type": task.OUTPUT_TYPE, "metrics": list(task._metric_fn_list),
             "num_fewshot": task.config.num_fewshot,
             "targets": [], "choices": [],
             "filters": [f.name for f in task._filters]}
    for doc in task.eval_docs:
        target = task.doc_to_target(doc)
        if task.multiple_input:
            target = task.doc_to_text(doc)
        facts["targets"].append(target)
        facts["choices"].append(task.doc_to_choice(doc) if task.config.doc_to_choice else None)
    if task.OUTPUT_TYPE == "generate_until":
        facts["until"] = task.config.generation_kwargs["until"]
        facts["filter_list"] = task.config.filter_list
        facts["exact_match"] = task._metric_fn_kwargs["exact_match"]
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        facts["counts"] = [[task.process_results(doc, [0.0])[m][1]
                            for m in ("word_perplexity", "byte_perplexity")]
                           for doc in task.eval_docs]
    return facts


def by_subject(path, folder, subject):
    out = os.path.join(folder, f"{subject}-{os.path.basename(path)}")
    with open(path, encoding="utf-8") as source, open(out, "w", encoding="utf-8") as file:
        file.writelines(line for line in source if json.loads(line)["subject"] == subject)
    return out


def mmlu_tasks(yaml, path, examples, itself):
    """lm_eval has a task for each subject: (config, numbers of its documents in the file)."""
    subjects = [json.loads(line)["subject"] for line in open(path, encoding="utf-8")]
    folder = tempfile.mkdtemp()
    for subject in sorted(set(subjects)):
        config = published_config(yaml, by_subject(path, folder, subject),
                                  examples and by_subject(examples, folder, subject), itself)
        config["description"] = config["description"].replace("anatomy", subject.replace("_", " "))
        yield config, [i for i, s in enumerate(subjects) if s == subject]


def ask_mmlu(arguments, num_fewshot, chat=False):
    documents, facts = {}, None
    for config, numbers in mmlu_tasks(*arguments):
        task, asked = ask(config, num_fewshot, chat)
        own = facts_of(task)
        facts = facts or {**own, "targets": {}, "choices": {}}
        documents.update(zip(numbers, asked))
        facts["targets"].update(zip(numbers, own["targets"]))
        facts["choices"].update(zip(numbers, own["choices"]))
    for key in ("targets", "choices"):
        facts[key] = [facts[key][i] for i in sorted(facts[key])]
    return facts, [documents[i] for i in sorted(documents)]


def ask_published(name, arguments, num_fewshot, chat=False):
    if name == "mmlu":
        return ask_mmlu(arguments, num_fewshot, chat)
    task, documents = ask(published_config(*arguments), num_fewshot, chat)
    return facts_of(task), documents


def turns_of(documents):
    """[hash of each document], of contexts alone; choices without one have none."""
    return [hash_of([[request[0]] for request in requests if request[0]]) for requests in documents]


def shots_of(ask_with, examples, path, spare):
    """{"file of examples:number": [hash of each document]}"""
    out = {}
    for number in SHOTS:
        needed = number + spare
        if needed <= count_different(path):
            out[f":{number}"] = [hash_of(r) for r in ask_with(None, number)]
        if examples and needed <= count_different(os.path.join(HERE, examples)):
            out[f"{examples}:{number}"] = [hash_of(r) for r in ask_with(examples, number)]
    return out


def golden_published(name, word, yaml, examples):
    path = path_of(word)
    full = examples and os.path.join(HERE, examples)
    facts, _ = ask_published(name, (yaml, path, full, not examples), None)
    _, documents = ask_published(name, (yaml, path, full, not examples), 0)
    case = {"word": word, **facts, "requests": documents, "shots": {}}
    if facts["output_type"] == "loglikelihood_rolling" or name.startswith("truthfulqa"):
        return case

    def ask_with(file, number):
        return ask_published(name, (yaml, path, full, file is None), number)[1]

    if name == "mmlu":
        case["shots"] = {f"{f or ''}:{n}": [hash_of(r) for r in ask_with(f, n)]
                         for f, n in ((None, 1), (examples, 1), (examples, 3), (examples, 5))}
    else:
        case["shots"] = shots_of(ask_with, examples, path, 1)
    number = 1 if name == "mmlu" else 2
    case["turns"] = {f":{n}": turns_of(ask_published(name, (yaml, path, full, True), n, True)[1])
                     for n in (0, number)}
    return case


def generic_config(name, examples, number):
    """The YAML that Lathe writes without examples, and the lines it adds with them."""
    config = load_yaml(os.path.join(HERE, name + ".yaml"), resolve_func=True)
    files = {"test": os.path.join(HERE, name + ".jsonl")}
    if examples:
        files["train"] = os.path.join(HERE, examples)
    config["dataset_kwargs"] = {"data_files": files}
    if number:
        config.update(num_fewshot=number, fewshot_split="train" if examples else "test")
        # as Lathe writes it then
        if config["output_type"] == "generate_until" and not config["generation_kwargs"]["until"]:
            config["generation_kwargs"]["until"] = ["\n\n"]
    return config


def golden_generic(name):
    task, documents = ask(generic_config(name, None, 0), 0)
    case = {"word": name + ".jsonl", **facts_of(task), "requests": documents, "shots": {}}
    # a list of right choices can not be shown as an example there
    if name == "several_right" or case["output_type"] == "loglikelihood_rolling":
        return case

    def ask_with(file, number):
        return ask(generic_config(name, file, number), number)[1]

    examples = GENERIC_EXAMPLES.get(name)
    case["shots"] = shots_of(ask_with, examples, path_of(name + ".jsonl"), 1)
    if ":3" in case["shots"]:
        case["turns"] = {":2": turns_of(ask(generic_config(name, None, 2), 2, True)[1])}
    return case


def make_requests():
    golden = {name: golden_published(name, *rest) for name, *rest in PUBLISHED}
    for name in GENERIC:
        golden[name] = golden_generic(name)
    return golden


# What the models are asked: (word, shots, file of examples)
RUNS = [("choices.jsonl", 0, None), ("choices.jsonl", 2, None), ("several_right.jsonl", 0, None),
        ("cloze.jsonl", 0, None), ("cloze.jsonl", 1, None), ("texts.jsonl", 0, None),
        ("answers.jsonl", 0, None), ("answers.jsonl", 2, "answers_train.jsonl"),
        ("grounded.jsonl", 0, None), ("hellaswag.jsonl", 0, None),
        ("hellaswag.jsonl", 1, "hellaswag_train.jsonl"), ("arc_easy=arc.jsonl", 0, None),
        ("arc_challenge=arc.jsonl", 1, None), ("openbookqa.jsonl", 0, None), ("piqa.jsonl", 0, None),
        ("sciq.jsonl", 0, None), ("boolq.jsonl", 0, None), ("winogrande.jsonl", 0, None),
        ("winogrande.jsonl", 1, "winogrande_train.jsonl"), ("mmlu.jsonl", 0, None),
        ("mmlu.jsonl", 5, "mmlu_dev.jsonl"), ("truthfulqa_mc1=truthfulqa.jsonl", 0, None),
        ("truthfulqa_mc2=truthfulqa.jsonl", 0, None), ("lambada_openai=lambada.jsonl", 0, None),
        ("gsm8k.jsonl", 0, None), ("triviaqa.jsonl", 0, None),
        ("triviaqa.jsonl", 1, "triviaqa_train.jsonl"), ("wikitext.jsonl", 0, None)]
NEW_TOKENS = 16  # the models see 64 tokens; the beginning of long prompts is cut off


def configs_of(word, number, examples):
    """(config, numbers of documents or None)"""
    full = examples and os.path.join(HERE, examples)
    for name, published, yaml, _ in PUBLISHED:
        if published != word:
            continue
        arguments = (yaml, path_of(word), full, not examples)
        if name == "mmlu":
            return list(mmlu_tasks(*arguments))
        return [(published_config(*arguments), None)]
    return [(generic_config(word.removesuffix(".jsonl"), examples, number), None)]


def plain_results(results):
    return {key: value for key, value in results.items()
            if "," in key and isinstance(value, float)}


def sample_of(sample, number):
    """The part of lm_eval's sample that depends on the model."""
    out = {"doc_id": number, "filter": sample["filter"], "resps": sample["resps"],
           "filtered_resps": sample["filtered_resps"]}
    return {**out, **{m: sample[m] for m in sample["metrics"]}}


def evaluate(lm, config, number, numbers):
    task = ConfigurableTask(config=dict(config))
    out = evaluator.simple_evaluate(
        lm, tasks=[task], num_fewshot=number, bootstrap_iters=1000, log_samples=True,
        task_manager=lm_eval_tasks.TaskManager(include_defaults=False),
        gen_kwargs=f"max_gen_toks={NEW_TOKENS}" if task.OUTPUT_TYPE == "generate_until" else None)
    [name] = out["results"]
    samples = [sample_of(s, numbers[s["doc_id"]] if numbers else s["doc_id"])
               for s in out["samples"][name]]
    return plain_results(out["results"][name]), samples


def run_of(lm, word, number, examples):
    run = {"word": word, "num_fewshot": number, "fewshot_path": examples, "results": {},
           "samples": []}
    configs = configs_of(word, number, examples)
    for config, numbers in configs:
        results, samples = evaluate(lm, config, number, numbers)
        if len(configs) == 1:
            run["results"] = results
        else:
            subject = json.loads(list(open(path_of(word)))[numbers[0]])["subject"]
            run.setdefault("categories", {})[subject] = results
        run["samples"] += samples
    run["samples"].sort(key=lambda s: s["doc_id"])
    if len(configs) > 1:  # as the group mmlu: weighted by size
        accs = [s["acc"] for s in run["samples"]]
        run["results"] = {"acc,none": sum(accs) / len(accs)}
    return run


def make_results():
    golden = {}
    evaluator.add_env_info = lambda results: None  # lists all packages, which takes its time
    for model in ("gpt2_words", "llama_words"):
        lm = HFLM(pretrained=os.path.join(MODELS, model), dtype="float32", device="cpu",
                  batch_size=1)
        golden[model] = [run_of(lm, *run) for run in RUNS]
    return golden


def write(name, value):
    with open(os.path.join(HERE, name), "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=None, default=float)
        file.write("\n")


def main():
    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()
    write("requests.json", make_requests())
    write("results.json", make_results())


if __name__ == "__main__":
    os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp()
    sys.exit(main())
