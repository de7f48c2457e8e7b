"""The built-in tasks ask in the words of lm-evaluation-harness: its own task files, on the same rows."""

import re
import warnings
from pathlib import Path

import pytest

from llmkit.evaluation.prompts import Chat, render_context, render_pairs
from llmkit.evaluation.task import PlainRow
from llmkit.evaluation.task_file import build_task
from llmkit.evaluation.tasks import BUILT_IN

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lm_eval = pytest.importorskip("lm_eval", reason="pip install lm-eval")
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

pytestmark = pytest.mark.filterwarnings("ignore")
PAGES = BUILT_IN["wikitext"].examples
TASKS = Path(lm_eval.__file__).parent / "tasks"


def choices(*texts):
    return {"text": list(texts), "label": list("ABCDE")[: len(texts)]}


def arc(stem, *texts, answer="B"):
    return {"id": stem, "question": stem, "choices": choices(*texts), "answerKey": answer}


FILES = {
    "hellaswag": "hellaswag/hellaswag",
    "arc_easy": "arc/arc_easy",
    "arc_challenge": "arc/arc_challenge",
    "piqa": "piqa/piqa",
    "winogrande": "winogrande/default",
    "boolq": "super_glue/boolq/default",
    "openbookqa": "openbookqa/openbookqa",
    "copa": "super_glue/copa/default",
    "siqa": "siqa/siqa",
    "commonsense_qa": "commonsense_qa/default",
    "mmlu": "mmlu/default/mmlu_abstract_algebra",
    "lambada": "lambada/lambada_openai",
    "sst2": "glue/sst2/default",
    "cola": "glue/cola/default",
    "gsm8k": "gsm8k/gsm8k",
    "triviaqa": "triviaqa/default",
    "summary": "cnn_dailymail/cnn_dailymail",
}
ROWS = {
    "hellaswag": [
        {
            "activity_label": "Roof",
            "ctx_a": f"A man [header] sat {n}. [title] Rest",
            "ctx_b": "then HE",
            "endings": [f"ran [step] {n}  off.", "ate", "sat. [title] Up", "sang"],
            "label": str(n),
        }
        for n in range(2)
    ],
    "arc_easy": [arc("What is 1?", "ice", "fire "), arc("And 2?", "a", "b", "c", "d", answer="D")],
    "arc_challenge": [arc("What is 1?", "ice", "fire"), arc("And 2?", "a", "b", "c", answer="A")],
    "piqa": [{"goal": f"cool {n} ", "sol1": "ice ", "sol2": "fire", "label": n} for n in range(2)],
    "winogrande": [
        {"sentence": f"Ann {n} saw Bea as _ left. ", "option1": "Ann", "option2": "Bea", "answer": str(n + 1)}
        for n in range(2)
    ],
    "boolq": [{"passage": f"Ice {n}.", "question": "does ice float", "label": n, "idx": n} for n in range(2)],
    "openbookqa": [
        {"id": f"{n}", "question_stem": f"Ice {n} is", "choices": choices("hot", "cold"), "answerKey": "AB"[n]}
        for n in range(2)
    ],
    "copa": [
        {
            "premise": f"It rained {n}. ",
            "choice1": "He ran.",
            "choice2": "She sat.",
            "question": why,
            "label": n,
            "idx": n,
        }
        for n, why in enumerate(["cause", "effect"])
    ],
    "siqa": [
        {
            "context": f"Kim {n}.",
            "question": "Why?",
            "answerA": "a",
            "answerB": "b",
            "answerC": "c",
            "label": str(n + 1),
        }
        for n in range(2)
    ],
    "commonsense_qa": [arc(f" What {n}? ", "a", "b", "c", "d", "e") for n in range(2)],
    "mmlu": [
        {"question": f" What {n}? ", "subject": "abstract_algebra", "choices": list("wxyz"), "answer": n}
        for n in range(2)
    ],
    "lambada": [{"text": f'He {n} said\n "no more."'} for n in range(2)],
    "sst2": [{"sentence": f"a film {n} ", "label": n, "idx": n} for n in range(2)],
    "cola": [{"sentence": f"Him ran {n}.", "label": n, "idx": n} for n in range(2)],
    "gsm8k": [{"question": f"How many {n}?", "answer": f"{n}+1 = <<{n}+1>>\n#### {n + 1}"} for n in range(2)],
    "triviaqa": [
        {"question": f"Who {n}?", "question_id": str(n), "answer": {"value": "Ann", "aliases": ["Ann", "A."]}}
        for n in range(2)
    ],
    "summary": [{"article": f"Long {n}.", "highlights": "Short.", "id": str(n)} for n in range(2)],
}
"""Two rows each, as the hub has them; the second is the shot of the first."""


def render_turns(turns):
    return "".join(f"<{turn.role}>{turn.content}</>" for turn in turns) + "<assistant>"


def theirs(name, num_shots, chat):
    """(contexts, continuations) of the first row, by lm-evaluation-harness."""
    config = load_yaml(TASKS / f"{FILES[name]}.yaml")
    split = config.get("test_split") or config["validation_split"]
    data = {split: Dataset.from_list(ROWS[name][:1]), "shots": Dataset.from_list(ROWS[name][1:])}
    config |= {"training_split": None, "custom_dataset": lambda **kwargs: data, "dataset_kwargs": None}
    config |= {"fewshot_split": "shots", "fewshot_config": {"sampler": "first_n"}, "metric_list": [{"metric": "acc"}]}
    config |= {"test_split": split, "validation_split": None, "filter_list": None, "process_results": None}
    task = ConfigurableTask(config=config)
    doc = next(iter(task.eval_docs))
    asked = {"apply_chat_template": chat is not None, "fewshot_as_multiturn": bool(chat and not chat.is_one_turn)}

    def template(messages, add_generation_prompt=True):
        return "".join(f"<{m['role']}>{m['content']}</>" for m in messages) + "<assistant>"

    context = task.fewshot_context(doc, num_shots, chat_template=template if chat else None, **asked)
    requests = task.construct_requests(doc, context, apply_chat_template=chat is not None, metadata=(name, 0, 1))
    arguments = [request.args for request in (requests if isinstance(requests, list) else [requests])]
    return [tuple(argument) for argument in arguments]


def ours(name, num_shots, chat):
    rows = [PlainRow(f"row:{n}", row) for n, row in enumerate(ROWS[name])]
    task = build_task(BUILT_IN[name].spec, lambda source: rows, make=BUILT_IN[name].examples)
    question, shot = task.examples("test")
    shots = [shot][:num_shots]
    if task.kind == "generate":
        return task, [(render_context(task, question, shots, chat), {})]
    return task, [(pair.context, pair.continuation) for pair in render_pairs(task, question, shots, chat)]


@pytest.mark.parametrize("num_shots", [0, 1])
@pytest.mark.parametrize("name", FILES)
def test_the_words_are_those_of_lm_evaluation_harness(name, num_shots):
    task, found = ours(name, num_shots, None)
    known = theirs(name, num_shots, None)
    if name == "lambada" and num_shots:
        # It puts two spaces before the word in a shot and one before the word that is asked for.
        known = [(context.replace("  ", " "), word) for context, word in known]
    assert [context for context, _ in found] == [context for context, _ in known]
    if task.kind != "generate":
        assert [continuation for _, continuation in found] == [continuation for _, continuation in known]
    else:
        until = known[0][1].get("until", ["\n\n"])
        assert list(task.stop) == until
        assert task.max_new_tokens in (known[0][1].get("max_gen_toks", 256), 64)


def test_only_prompts_of_lm_evaluation_harness_are_called_so():
    # SQuAD's prompt stands in its Python there, beside the reading of the rows.
    assert {name for name, task in BUILT_IN.items() if task.prompt_by == "lm-evaluation-harness"} == {*FILES, "squad"}


@pytest.mark.parametrize("is_one_turn", [False, True])
@pytest.mark.parametrize("name", ["arc_easy", "mmlu", "gsm8k", "winogrande"])
def test_the_turns_are_those_of_lm_evaluation_harness(name, is_one_turn):
    chat = Chat(render_turns, lambda texts: [], str, is_one_turn=is_one_turn)
    task, found = ours(name, 1, chat)
    known = theirs(name, 1, chat)
    assert [context for context, _ in found] == [context for context, _ in known]
    assert task.kind == "generate" or [text for _, text in found] == [text for _, text in known]


def test_wikitext_is_predicted_and_counted_as_lm_evaluation_harness_does():
    config = load_yaml(TASKS / "wikitext/wikitext.yaml")
    page = " \n = Ice = \n \n It 's 5 @,@ 000 kg"
    page += " ( or \" more \" ) ; ' it ' [ N ] . Its cats ' { x } 5 ° C \n = = A = = \n x . \n"
    task = build_task(BUILT_IN["wikitext"].spec, lambda source: [PlainRow("row:1", {"page": page})], make=PAGES)
    example = task.examples("test")[0]
    assert example.fields["question"] == config["doc_to_target"]({"page": page})
    _, words = config["process_results"]({"page": page}, (0.0,))["word_perplexity"]
    _, size = config["process_results"]({"page": page}, (0.0,))["byte_perplexity"]
    assert (len(re.split(r"\s+", example.counted)), len(example.counted.encode())) == (words, size)
