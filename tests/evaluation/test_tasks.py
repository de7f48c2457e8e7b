"""Every built-in set in the forms in which it is published. The rows here are made up."""

import pytest

from llmkit.data.python_docs import LABELS
from llmkit.errors import DataError
from llmkit.evaluation.prompts import render_context, render_pairs, render_solved
from llmkit.evaluation.task import Example, PlainRow, Task
from llmkit.evaluation.task_file import build_task
from llmkit.evaluation.tasks import BUILT_IN
from llmkit.evaluation.tasks.python_docs import PACKAGES, description_examples, package_examples


def open_rows(name, rows):
    """The built-in task of this name on rows, which are dictionaries."""
    placed = [row if isinstance(row, PlainRow) else PlainRow(f"rows:{n}", row) for n, row in enumerate(rows, 1)]
    spec = BUILT_IN[name].spec.model_copy(update={"test": "rows", "train": None})
    return build_task(spec, lambda source: placed, make=BUILT_IN[name].examples)


def open_lines(name, text, path="file.txt"):
    """The same on the lines of a text file."""
    lines = [(f"{path}:{n}", line) for n, line in enumerate(text.split("\n"), 1)]
    return open_rows(name, list(BUILT_IN[name].lines(lines)))


def asked(task, shots=()):
    """(context, continuations, right one) of the first example, as the model sees them."""
    example = task.examples("test")[0]
    pairs = render_pairs(task, example, shots)
    assert len({pair.context for pair in pairs}) == 1
    return pairs[0].context, [pair.continuation for pair in pairs], example.answer


CHOICES = [{"text": "ice", "label": "A"}, {"text": "steam", "label": "B"}]
COLUMNS = {"text": ["ice", "steam"], "label": ["A", "B"]}
ARC = ("Question: What is frozen water?\nAnswer:", [" ice", " steam"], 0)
OPENBOOK = ("Frozen water is called", [" ice", " steam"], 0)
CSQA = ("Question: What is frozen water?\nA. ice\nB. steam\nAnswer:", [" A", " B"], 0)
PIQA = ("Question: cool a drink\nAnswer:", [" add ice", " add fire"], 0)
SIQA = ("Q: Kim fell. How does Kim feel?\nA:", [" hurt", " glad", " tall"], 1)
BOOLQ = ("Ice floats.\nQuestion: does ice float?\nAnswer:", [" no", " yes"], 1)
COPA = ("It rained, therefore", ["  the street got wet.", "  a door shut."], 0)
LAMBADA = ('She said "no', [' more."'], 0)
SST2 = ("a fine film\nQuestion: Is this sentence positive or negative?\nAnswer:", [" negative", " positive"], 1)
COLA = ("Him ran.\nQuestion: Does this sentence make sense?\nAnswer:", [" no", " yes"], 0)
NEWS = ("Article: Ice sold Prices rise.\nTopic:", [" World", " Sports", " Business", " Technology"], 2)


@pytest.mark.parametrize(
    ("name", "row", "wanted"),
    [
        ("arc_easy", {"question": {"stem": "What is frozen water?", "choices": CHOICES}, "answerKey": "A"}, ARC),
        ("arc_challenge", {"question": "What is frozen water?", "choices": COLUMNS, "answerKey": "A"}, ARC),
        ("arc_easy", {"query": "Question: What is frozen water?", "choices": ["ice", "steam"], "gold": 0}, ARC),
        ("openbookqa", {"question_stem": "Frozen water is called", "choices": COLUMNS, "answerKey": "A"}, OPENBOOK),
        ("openbookqa", {"question": {"stem": OPENBOOK[0], "choices": CHOICES}, "answerKey": "A"}, OPENBOOK),
        ("openbookqa", {"query": "Frozen water is called", "choices": ["ice", "steam"], "gold": 0}, OPENBOOK),
        ("commonsense_qa", {"question": {"stem": "What is frozen water?", "choices": CHOICES}, "answerKey": "A"}, CSQA),
        ("commonsense_qa", {"question": " What is frozen water?", "choices": COLUMNS, "answerKey": "A"}, CSQA),
        (
            "commonsense_qa",
            {
                "query": "Question: What is frozen water?\nChoices:\nA. ice\nB. steam\nAnswer:",
                "choices": ["A", "B"],
                "gold": 0,
            },
            CSQA,
        ),
        ("piqa", {"goal": "cool a drink", "sol1": "add ice", "sol2": "add fire", "label": "0"}, PIQA),
        ("piqa", {"query": "Question: cool a drink\n", "choices": ["add ice", "add fire"], "gold": 0}, PIQA),
        (
            "siqa",
            {
                "context": "Kim fell.",
                "question": "How does Kim feel?",
                "answerA": "hurt",
                "answerB": "glad",
                "answerC": "tall",
                "label": "2",
            },
            SIQA,
        ),
        (
            "siqa",
            {
                "query": "Context: Kim fell.\nQuestion: How does Kim feel?\nChoices:\n"
                "A. hurt\nB. glad\nC. tall\nAnswer:",
                "choices": ["A", "B", "C"],
                "gold": 1,
            },
            SIQA,
        ),
        ("boolq", {"question": "does ice float", "title": "Ice", "answer": True, "passage": "Ice floats."}, BOOLQ),
        ("boolq", {"question": "does ice float", "label": 1, "passage": "Ice floats.", "idx": 3}, BOOLQ),
        (
            "boolq",
            {"query": "Passage: Ice floats.\nQuestion: does ice float?", "choices": ["no", "yes"], "gold": 1},
            BOOLQ,
        ),
        (
            "copa",
            {
                "premise": "It rained.",
                "choice1": "The street got wet.",
                "choice2": "A door shut.",
                "question": "effect",
                "label": 0,
            },
            COPA,
        ),
        (
            "copa",
            {"query": "It rained, therefore", "choices": ["the street got wet.", "a door shut."], "gold": 0},
            COPA,
        ),
        ("lambada", {"text": 'She said "no more."'}, LAMBADA),
        ("lambada", {"context": 'She said "no', "continuation": 'more."'}, LAMBADA),
        ("sst2", {"sentence": "a fine film", "label": 1, "idx": 0}, SST2),
        ("cola", {"sentence": "Him ran.", "label": 0, "idx": 0}, COLA),
        ("ag_news", {"text": "Ice sold Prices rise.", "label": 2}, NEWS),
    ],
)
def test_a_choice_is_asked_in_the_same_words_in_whatever_form_it_was_published(name, row, wanted):
    context, continuations, answer = asked(open_rows(name, [row]))
    if name == "copa" and "premise" in row:
        context = context.replace("rained therefore", "rained, therefore")  # the gauntlet put a comma in
    assert (context, continuations, answer) == wanted


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("sst2", "a fine film\t1\nbad\t0", SST2),
        ("sst2", "sentence\tlabel\na fine film\t1", SST2),
        ("cola", 'gj04\t0\t*\tHim ran.\ngj04\t1\t\tShe said "so.', COLA),
        ("ag_news", '"3","Ice sold","Prices rise."\n"1","a","b"', NEWS),
        ("ag_news", "Class Index,Title,Description\n3,Ice sold,Prices\\rise.", NEWS),
        ("lambada", 'She said "no more."\n', LAMBADA),
    ],
)
def test_text_files_are_read_with_and_without_a_header(name, text, wanted):
    assert asked(open_lines(name, text)) == wanted


def test_hellaswag_is_cleaned_as_others_clean_it():
    row = {
        "ind": 24,
        "activity_label": "Roof shingle removal",
        "ctx_a": "A man is on a roof. [header] Tools [title] Take a bar.",
        "ctx_b": "he",
        "endings": ["[substeps] is  here.", "is gone. [title] Rest."],
        "label": "1",
    }
    task = open_rows("hellaswag", [row])
    # The brackets go, and one of two spaces; what was a title becomes a sentence of its own.
    context = "Roof shingle removal: A man is on a roof. Tools. Take a bar. He"
    assert asked(task) == (context, ["  is here.", " is gone.. Rest."], 1)
    assert task.examples("test")[0].id == "24"


def test_the_text_form_of_hellaswag_has_six_lines_a_row():
    rows = "Roof: A man\n2\nrests.\neats.\nruns.\nsings.\nBoat: A dog\n0\na\nb\nc\nd\n"
    task = open_lines("hellaswag", rows)
    assert asked(task) == ("Roof: A man", [" rests.", " eats.", " runs.", " sings."], 2)
    assert [example.where for example in task.examples("test")] == ["file.txt:1", "file.txt:7"]
    with pytest.raises(DataError, match=r"file.txt:7.*six lines"):
        open_lines("hellaswag", rows.removesuffix("d\n"))


@pytest.mark.parametrize(
    "row",
    [
        {"sentence": "Ann hired Bea because _ was able.", "option1": "Ann", "option2": "Bea", "answer": "2"},
        {
            "context_options": ["Ann hired Bea because Ann", "Ann hired Bea because Bea"],
            "continuation": "was able.",
            "gold": 1,
        },
    ],
)
def test_winogrande_compares_what_follows_the_names(row):
    task = open_rows("winogrande", [row])
    example = task.examples("test")[0]
    pairs = render_pairs(task, example, [])
    assert [pair.context for pair in pairs] == ["Ann hired Bea because Ann", "Ann hired Bea because Bea"]
    assert {pair.continuation for pair in pairs} == {" was able."}
    assert (example.answer, render_solved(task, example)) == (1, "Ann hired Bea because Bea was able.")


MMLU = ("What is 1+1?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:", [" A", " B", " C", " D"], 1)
ABOUT = "The following are multiple choice questions (with answers) about school maths.\n\n"


@pytest.mark.parametrize(
    "text", ["What is 1+1?,1,2,3,4,B\n", "question,choice0,choice1,choice2,choice3,answer\nWhat is 1+1? ,1,2,3,4,1\n"]
)
def test_mmlu_is_read_with_letters_and_with_numbers_and_its_file_names_the_subject(text):
    task = open_lines("mmlu", text, path="mmlu/test/school_maths_test.csv")
    assert asked(task) == (ABOUT + MMLU[0], *MMLU[1:])
    assert task.examples("test")[0].group == "school_maths"


def test_mmlu_of_the_hub_has_its_subject_in_a_column_and_fields_may_hold_line_ends():
    row = {"question": "What is 1+1?", "subject": "school_maths", "choices": list("1234"), "answer": 1}
    assert asked(open_rows("mmlu", [row])) == (ABOUT + MMLU[0], *MMLU[1:])
    quoted = open_lines("mmlu", '"Read this.\nWhat?",a,b,c,d,D\nNext?,a,b,c,d,A\n', path="law_dev.csv")
    assert [e.fields["question"] for e in quoted.examples("test")] == ["Read this.\nWhat?", "Next?"]
    assert [e.where for e in quoted.examples("test")] == ["law_dev.csv:1", "law_dev.csv:3"]


def test_trec_has_a_label_before_each_question():
    task = open_lines("trec", "NUM:date When did it snow ?\nHUM:ind Who skis ?")
    context, continuations, answer = asked(task)
    assert context == "Question: When did it snow ?\nThe answer is of the type:"
    assert continuations[answer] == " number"
    with pytest.raises(DataError, match=r"file.txt:1"):
        open_lines("trec", "WHAT is this?")


def test_a_sum_shows_its_way_in_shots_and_is_graded_by_its_number():
    rows = [
        {"question": "Two and two?", "answer": "2+2 = <<2+2=4>>4\n#### 4"},
        {"question": "Big?", "answer": "#### 1,000"},
    ]
    task = open_rows("gsm8k", rows)
    first, second = task.examples("test")
    wanted = "Question: Two and two?\nAnswer: 2+2 = <<2+2=4>>4\n#### 4\n\nQuestion: Big?\nAnswer:"
    assert render_context(task, second, [first]) == wanted
    assert second.references == ("1000",)
    assert task.grade(second, "so #### 1,000") == {"exact_match": 1, "exact_match_flexible": 1}


ANSWERS = [
    {"text": "ice", "answer_start": 0},
    {"text": "ice", "answer_start": 0},
    {"text": "the ice", "answer_start": 9},
]


def test_squad_is_read_nested_and_flat_and_knows_questions_without_answer():
    questions = [{"id": "q1", "question": "What floats?", "answers": ANSWERS}]
    questions.append({"id": "q2", "question": "Who?", "answers": [], "is_impossible": True})
    article = {"title": "Ice", "paragraphs": [{"context": "Ice floats.", "qas": questions}]}
    nested = open_rows("squad", [article]).examples("test")
    assert [e.id for e in nested] == ["q1", "q2"]
    assert [e.references for e in nested] == [("ice", "the ice"), ("",)]
    whole = open_rows("squad", [{"version": "1.1", "data": [article]}]).examples("test")
    flat = {"id": "q1", "title": "Ice", "context": "Ice floats.", "question": "What floats?"}
    task = open_rows("squad", [{**flat, "answers": {"text": ["ice"], "answer_start": [0]}}])
    wanted = "Title: Ice\n\nBackground: Ice floats.\n\nQuestion: What floats?\n\nAnswer:"
    assert {render_context(task, e, []) for e in (nested[0], whole[0], task.examples("test")[0])} == {wanted}
    assert render_solved(task, nested[1]).endswith("Question: Who?\n\nAnswer: unanswerable")
    assert task.grade(nested[1], "unanswerable")["exact_match"] == 1


@pytest.mark.parametrize(
    "row",
    [
        {
            "Data": [
                {"Question": "Coldest?", "QuestionId": "t1", "Answer": {"Value": "Ice", "Aliases": ["Ice", "Frost"]}}
            ]
        },
        {"question": "Coldest?", "question_id": "t1", "answer": {"value": "Ice", "aliases": ["Ice", "Frost"]}},
        {"context": "Question: Coldest?\nAnswer:", "answer": "Ice", "aliases": ["Frost", "Ice"]},
    ],
)
def test_trivia_takes_any_name_of_the_answer(row):
    task = open_rows("triviaqa", [row])
    example = task.examples("test")[0]
    assert (example.references, render_context(task, example, [])) == (("Ice", "Frost"), "Question: Coldest??\nAnswer:")
    assert task.grade(example, "the frost")["exact_match"] == 1


def test_a_summary_may_have_several_references_and_any_usual_names():
    task = open_rows("dialogsum", [{"fname": "d1", "dialogue": "#Person1#: Hi", "summary1": "a b", "summary2": "c d"}])
    example = task.examples("test")[0]
    assert (example.id, example.references) == ("d1", ("a b", "c d"))
    assert task.grade(example, "c d")["rougeL"] == 1
    article = open_rows("summary", [{"article": "Long.", "highlights": "Short."}]).examples("test")[0]
    assert (article.fields["question"], article.references) == ("Long.", ("Short.",))


def test_wikitext_is_cut_at_its_articles_and_counts_the_words_as_published():
    text = " \n = Ice = \n \n Ice , or frozen water , weighs 0 @.@ 9 kg ( less ) . \n"
    text += " = = Use = = \n cool \n = Fire = \n hot \n"
    first, second = open_lines("wikitext", text).examples("test")
    assert first.fields["question"] == " = Ice =\n\nIce, or frozen water, weighs 0.9 kg (less).\n== Use ==\ncool "
    assert first.counted == text.removeprefix(" \n").partition("\n = Fire")[0]
    assert (first.where, second.where) == ("file.txt:2", "file.txt:7")
    assert "hot" in second.fields["question"]


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("piqa", {"goal": "x", "sol1": "a", "sol2": "b"}, r"rows:1.*no known form"),
        ("hellaswag", {"query": "x", "choices": ["a", ""], "gold": 0}, r"rows:1.*choice is empty"),
        ("hellaswag", {"query": "x", "choices": ["a", "b"], "gold": 2}, r"rows:1.*not said which"),
        ("sst2", {"sentence": "x", "label": -1}, r"rows:1.*not said which"),
        ("arc_easy", {"question": "x", "choices": COLUMNS, "answerKey": "E"}, r"rows:1.*not said which"),
        ("gsm8k", {"question": "x", "answer": "four"}, r"rows:1.*as it is published"),
        ("copa", {"premise": "x", "choice1": "a", "choice2": "b", "question": "?", "label": 0}, r"rows:1.*KeyError"),
        ("squad", {"title": "x"}, r"rows:1.*no known form"),
    ],
)
def test_a_row_that_cannot_be_used_is_an_error_that_names_it(name, row, message):
    with pytest.raises(DataError, match=message):
        open_rows(name, [row])


def test_description_rows_hold_the_right_answer_once_and_do_not_depend_on_order():
    rows = [
        PlainRow(f"r:{n}", {"name": f"f{n}", "signature": f"f{n}()", "doc": f"Do the thing number {n}. More."})
        for n in range(9)
    ]
    shaped = {example.id: example for example in description_examples(rows)}
    assert shaped == {example.id: example for example in description_examples(rows[::-1])}
    for n in range(9):
        assert shaped[f"f{n}"].solution == f"Do the thing number {n}."
        assert len(set(shaped[f"f{n}"].choices)) == 4


def test_package_rows_are_cut_at_a_word():
    (example,) = package_examples([PlainRow("r:1", {"text": "word " * 100, "label": "xml"})])
    assert len(example.fields["question"]) <= 160
    assert example.fields["question"].endswith("word")
    assert example.solution == "xml"
    assert sorted(PACKAGES) == sorted(LABELS)


def test_built_in_tasks_are_worded_in_several_ways_but_for_two():
    alone = {name for name, task in BUILT_IN.items() if task.spec.kind != "perplexity" and not task.spec.prompts}
    assert alone == {"hellaswag", "winogrande"}
    # What stops an answer to a sum is the next question: every wording begins with it.
    sums = BUILT_IN["gsm8k"].spec
    assert all(prompt.startswith(sums.stop[0]) for prompt in (sums.prompt, *sums.prompts))


def test_built_in_tasks_have_a_metric_a_chance_level_and_a_place():
    for name, task in BUILT_IN.items():
        assert task.spec.name == name
        choices = ("end",) if name == "lambada" else ("a", "b")
        stub = Task(
            name, task.spec.kind, lambda split, c=choices: [Example("0", "r:1", {}, c)], grading=task.spec.grading
        )
        assert task.metric in stub.metrics
        assert (task.chance is None) == (task.spec.kind in ("generate", "perplexity") or name == "lambada")
        assert len(task.spec.labels) in (0, task.num_choices)
        assert name == "perplexity" or task.spec.test.startswith(("hf:", "python-docs"))
        assert bool(task.test_files) == task.spec.test.startswith("hf:")
    assert BUILT_IN["cola"].chance == 0.0
