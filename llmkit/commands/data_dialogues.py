"""`llmkit data show` and `llmkit data check` of instructions, dialogues and preference pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmkit.commands.options import AsJson, Overrides
from llmkit.commands.tables import write_table
from llmkit.console import say, write, write_json
from llmkit.errors import CheckError, LlmkitError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llmkit.data.findings import Finding
    from llmkit.data.messages import Dialogue
    from llmkit.data.show import ShownRow
    from llmkit.recipe.schema import FinetuneRecipe

LEVELS = ("serious", "warning", "note")


def check_data(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Instructions, dialogues or preference pairs.")],
    model: Annotated[str, typer.Option(help="Model or tokenizer folder, or a hub name.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """All that is wrong, doubtful or worth knowing about rows before a model learns from them.

    \b
    Examples:
      llmkit data check chats.jsonl --model run/model
      llmkit data check pairs.jsonl --model run/model --json
      llmkit data check rows.jsonl --model run/model --set data.columns.prompt=q --set data.columns.completion=a
      llmkit data check long.jsonl --model run/model --set data.max_length=4096

    Rows are read, rendered and counted as `llmkit finetune` would, with the same fields of its recipe under --set.
    Found are rows that cannot be read or that the chat template refuses, empty answers and rows without any, rows that
    are too long, control tokens written out in texts, characters that the tokenizer cannot write, blanks that nobody
    filled in, duplicates, and what the template adds or shows in another way. The exit code is 3 when one of these is
    serious.
    """
    settings = recipe_for(file, overrides)
    check_there(file)
    findings, account = check_file(settings, load_template(model))
    findings.sort(key=lambda finding: LEVELS.index(finding.level))
    serious = [finding for finding in findings if finding.level == "serious"]
    if as_json:
        document = {"file": file, "ok": not serious, "findings": [finding.to_json() for finding in findings]}
        write_json({**document, "account": account})
    else:
        show_findings(findings, account)
    if serious:
        message = "; ".join(f"{finding.name}: {finding.message}" for finding in serious)
        raise CheckError(message, where=file, fix=serious[0].fix)


def check_there(source: str) -> None:
    """Raise when there is no such file: that is no fault of the data."""
    from llmkit.data.documents import is_python_docs
    from llmkit.data.hub import is_hub_name
    from llmkit.data.sources import find_sources

    if source == "-":
        raise UsageError("stdin cannot be read twice", where="-", fix="write it to a file first")
    if not is_python_docs(source) and not is_hub_name(source):
        find_sources([source])


def show_findings(findings: Sequence[Finding], account: dict[str, Any]) -> None:
    """The table of findings, and what there is to do."""
    if account:
        dropped = sum(about["rows"] for about in account["dropped"].values())
        trained, tokens = account["trained_tokens"], account["tokens"]
        share = f"{trained:,} of {tokens:,} tokens are trained ({account['trained_share']:.0%})"
        write(f"{account['read']:,} rows read, {account['used']:,} used, {dropped:,} dropped; {share}")
    if not findings:
        write("nothing was found")
        return
    rows = [[f.level, f.name, f"{f.rows:,}" if f.rows else "", f.message, f.first or ""] for f in findings]
    write_table(["level", "finding", "rows", "what", "first"], rows, spare=("first",))
    for finding in findings:
        if finding.fix:
            say(f"{finding.name}: {finding.fix}")


def recipe_for(source: str, overrides: list[str] | None) -> FinetuneRecipe:
    """The recipe of a tuning on this file, with what --set says."""
    from llmkit.recipe.load import load_recipe
    from llmkit.recipe.schema import FinetuneRecipe

    return load_recipe(FinetuneRecipe, None, overrides or [], {"data.source": ("FILE", source)})


def load_template(model: str) -> PreTrainedTokenizerFast:
    """A tokenizer with the chat template that `llmkit finetune` would use."""
    from llmkit.data.rendering import add_chat_template
    from llmkit.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(model)
    if add_chat_template(tokenizer):
        say(f"{model} has no chat template: shown with ChatML, as `llmkit finetune` would")
    return tokenizer


def check_file(settings: FinetuneRecipe, tokenizer: PreTrainedTokenizerFast) -> tuple[list[Finding], dict[str, Any]]:
    """The findings about a file, and its account as in data-report.json; that is empty when nothing can be used."""
    from llmkit.data.dialogue_set import encode_set
    from llmkit.data.findings import find_all, find_faults, unusable
    from llmkit.data.rendering import renderer_of

    data = settings.data
    try:
        dialogues, faults = read_rows(settings)
        limit = data.max_length or settings.train.seq_len
        rows, account = encode_set(dialogues, tokenizer, name="rows", max_length=limit, overlong=data.overlong)
        found = [*find_faults(faults), *find_all(dialogues, rows, account, renderer_of(tokenizer))]
        return found, account.to_json()
    except LlmkitError as error:
        return [unusable(error)], {}


def read_rows(settings: FinetuneRecipe) -> tuple[list[Dialogue], Counter[str]]:
    """The dialogues of a file; of a preference pair both, the chosen one first, and why pairs teach nothing."""
    from llmkit.data.dialogue_source import read_source
    from llmkit.data.messages import Dialogue
    from llmkit.data.preference_forms import read_preferences

    data, source = settings.data, str(settings.data.source)
    faults: Counter[str] = Counter()
    if not holds_pairs(source, data.columns):
        return read_source(source, data), faults
    dialogues = []
    for pair in read_preferences(source, columns=data.columns, roles=data.roles):
        faults.update([pair.fault] if pair.fault else [])
        for answer in (pair.chosen, pair.rejected):
            dialogues.append(Dialogue((*pair.prompt, *answer), pair.where, pair.tools, source))
    say(f"{source}: {len(dialogues) // 2:,} pairs, of which each answer is a row here, the chosen one first")
    return dialogues, faults


def holds_pairs(source: str, columns: dict[str, str]) -> bool:
    """Whether the first row is a preference pair."""
    from llmkit.data.documents import read_records
    from llmkit.data.other_forms import is_pair

    first = next(read_records(source), None)
    names = {value: key for key, value in columns.items()}
    return first is not None and is_pair({names.get(name, name): value for name, value in first.values.items()})


def show_dialogues(
    source: str, model: str | None, overrides: list[str] | None, *, limit: int
) -> tuple[list[ShownRow], dict[str, Any], PreTrainedTokenizerFast]:
    """Of dialogues: the first rows through the model's chat template, and the statistics of all."""
    from llmkit.data.dialogue_set import encode_set, tell_findings
    from llmkit.data.show import NO_LIMIT, dialogue_row, dialogue_statistics

    if model is None:
        fix = "add --model DIR, a model or tokenizer folder"
        raise UsageError("dialogues are shown through a model's chat template", where=source, fix=fix)
    tokenizer, settings = load_template(model), recipe_for(source, overrides)
    longest = settings.data.max_length or NO_LIMIT
    dialogues, _ = read_rows(settings)
    rows, account = encode_set(dialogues, tokenizer, name=source, max_length=longest, overlong=settings.data.overlong)
    tell_findings(account)
    return [dialogue_row(row) for row in rows[:limit]], {"dialogues": dialogue_statistics(rows, account)}, tokenizer
