import pytest

from llmkit.evaluation import answers
from llmkit.evaluation.task import Example, Task


@pytest.mark.parametrize(
    ("said", "accepted", "exact", "f1"),
    [
        # Articles, case and punctuation do not count: "denver broncos" is all that is left.
        ("The Denver Broncos.", ["Denver Broncos"], 1, 1),
        # "santa clara california" against "santa clara": 2 shared of 3 and 2 words, so 2 * 2 / 5.
        ("Santa Clara, California", ["Santa Clara"], 0, 4 / 5),
        # The best of the references counts: 1 shared of 1 and 2 words against nothing shared.
        ("Levi's", ["nowhere", "Levi's Stadium"], 0, 2 / 3),
        # A word that is said twice is shared twice only where it is wanted twice: 1 of 2 and 1.
        ("gold gold", ["gold"], 0, 2 / 3),
        ("blue", ["gold"], 0, 0),
        # No answer (SQuAD 2): only nothing, or that there is none, is right.
        ("unanswerable", [""], 1, 1),
        ("", [""], 1, 1),
        ("gold", [""], 0, 0),
        # An answer of articles and punctuation alone is nothing too, and equals nothing.
        ("the.", ["gold"], 0, 0),
    ],
)
def test_squad_scores_are_those_of_its_definition(said, accepted, exact, f1):
    assert answers.grade("squad", said, accepted) == pytest.approx({"exact_match": exact, "f1": f1})


@pytest.mark.parametrize(
    ("said", "strict", "flexible"),
    [
        ("She sold 48/2 = <<48/2=24>>24.\n#### 72", 1, 1),
        ("So it is 72.", 0, 1),
        ("#### $1,072", 0, 0),
        ("#### 1072 is 72", 0, 1),
        ("#### 72.", 1, 1),
        ("The answer is $72", 0, 1),
        ("-72", 0, 0),
        ("no number", 0, 0),
        # The first mark counts, and of plain numbers the last, as in lm-evaluation-harness.
        ("#### 72\n#### 5", 1, 0),
        ("#### 7_2", 0, 0),
        ("nan 72.", 0, 1),
        ("It is 72.00", 0, 0),
    ],
)
def test_a_sum_is_right_by_its_mark_or_by_its_last_number(said, strict, flexible):
    assert answers.grade("number", said, ["72"]) == {"exact_match": strict, "exact_match_flexible": flexible}


@pytest.mark.parametrize(
    ("said", "accepted", "exact", "contains", "f1"),
    [
        ("The Cat.", ["cat"], 1, 1, 1),
        ("a cat on a mat", ["cat"], 0, 1, 2 / 4),
        ("concatenate", ["cat"], 0, 0, 0),
        ("dog", ["cat", "Dog!"], 1, 1, 1),
    ],
)
def test_free_answers_are_compared_in_normal_form(said, accepted, exact, contains, f1):
    wanted = {"exact_match": exact, "contains": contains, "f1": f1}
    assert answers.grade("answer", said, accepted) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("said", "wanted", "is_right"),
    [
        *(("", "A", 0), ("a", "A", 1), ("5", "-5", 0), ("35", "3.5", 0), ("1,000", "1000", 1), ("$5.00", "5", 1)),
        *((".5", "5", 0), (".5", "0.50", 1), ("5.", "5", 1), ("-$5", "$-5", 1), ("+7", "7", 1), ("1e3", "1000", 1)),
        *(("nan", "NaN", 1), ("infinity", "inf", 0), ("1_000", "1000", 0), ("10,00", "1000", 0)),
        # More digits than a float holds.
        ("10000000000000001", "10000000000000000", 0),
    ],
)
def test_different_answers_are_not_made_equal_by_their_normal_form(said, wanted, is_right):
    assert answers.score_answer(said, [wanted])["exact_match"] == is_right


@pytest.mark.parametrize("grading", answers.METRICS)
def test_every_way_to_grade_gives_the_metrics_that_it_names(grading):
    assert set(answers.grade(grading, "said", ["wanted"])) == set(answers.METRICS[grading])


@pytest.mark.parametrize(
    ("grading", "metric"), [("answer", "exact_match"), ("squad", "f1"), ("number", "exact_match"), ("rouge", "rougeL")]
)
def test_the_metric_that_stands_for_a_task_is_among_its_grades(grading, metric):
    task = Task("t", "generate", lambda split: (), grading=grading)
    assert task.metric == metric
    assert task.grade(Example("0", "t:1", {}, references=("7",)), "7")[metric] in (0.0, 1.0)
