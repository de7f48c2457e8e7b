"""`llmkit data show` and `llmkit data check` of instructions, dialogues and preference pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from llmkit.commands.options import AsJson, Overrides
from llmkit.commands.terminal import write_table
from llmkit.console import say, write, write_json
from llmkit.errors import CheckError, LlmkitError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llmkit.data.dialogue import Row
    from llmkit.data.dialogue_set import Account
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
    findings, account = check_file(settings, load_template(model), longest=longest_row_of(model, settings))
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
    # The lines of a file that cannot be read stand in the error that follows.
    what = [finding.message.partition("\n")[0] for finding in findings]
    rows = [
        [f.level, f.name, f"{f.rows:,}" if f.rows else "", text, f.first or ""]
        for f, text in zip(findings, what, strict=True)
    ]
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


def longest_row_of(model: str, settings: FinetuneRecipe) -> int:
    """Most tokens of a row as a tuning of this model takes them; of a tokenizer alone, what the recipe says."""
    from llmkit.commands.tuning import longest_row
    from llmkit.models.causal_lm import model_folder, outline
    from llmkit.models.config_files import ADAPTER_CONFIG, base_of_adapter

    source = str(model_folder(model))
    if (Path(source) / ADAPTER_CONFIG).is_file():
        source = base_of_adapter(Path(source)) or source
    if Path(source).exists() and not (Path(source) / "config.json").is_file():
        return settings.data.max_length or settings.train.seq_len
    return longest_row(settings, outline(source))


def check_file(
    settings: FinetuneRecipe, tokenizer: PreTrainedTokenizerFast, *, longest: int
) -> tuple[list[Finding], dict[str, Any]]:
    """The findings about a file, and its account as in data-report.json; that is empty when nothing can be used."""
    from llmkit.data.findings import find_all, unusable
    from llmkit.data.rendering import renderer_of

    try:
        encoded = encode_file(settings, tokenizer, longest=longest)
        return list(find_all(*encoded, renderer_of(tokenizer))), encoded.account.to_json()
    except LlmkitError as error:
        return [unusable(error)], {}


class EncodedFile(NamedTuple):
    """The dialogues of a file, the rows of those that are used, and what became of all."""

    dialogues: list[Dialogue]
    rows: list[Row]
    account: Account


def encode_file(settings: FinetuneRecipe, tokenizer: PreTrainedTokenizerFast, *, longest: int) -> EncodedFile:
    """The rows of a file as a tuning would have them; of preference pairs both, the chosen answer first."""
    from llmkit.commands.tuning import check_methods
    from llmkit.data.dialogue_set import encode_set
    from llmkit.data.dialogue_source import read_pairs, read_source
    from llmkit.data.preferences import encode_pairs

    data, source = settings.data, str(settings.data.source)
    if not holds_pairs(source, data.columns):
        dialogues = read_source(source, data)
        rows, account = encode_set(dialogues, tokenizer, name=source, max_length=longest, overlong=data.overlong)
        return EncodedFile(dialogues, rows, account)
    check_methods(settings.model_copy(update={"task": "prefer"}))
    preferences = read_pairs(source, data)
    say(f"{source}: {len(preferences):,} pairs, whose answers are shown one after the other, the chosen one first")
    pairs, account = encode_pairs(preferences, tokenizer, name=source, max_length=longest, overlong=data.overlong)
    both = [dialogue for preference in preferences for dialogue in preference.dialogues]
    return EncodedFile(both, [row for pair in pairs for row in pair], account)


def holds_pairs(source: str, columns: dict[str, str]) -> bool:
    """Whether the first row is a preference pair."""
    from llmkit.data.forms import records_of
    from llmkit.data.other_forms import is_pair

    first = next(records_of(source), None)
    names = {value: key for key, value in columns.items()}
    return first is not None and is_pair({names.get(name, name): value for name, value in first.values.items()})


def tell_long_rows(rows: Sequence[Row], longest: int) -> None:
    """Say how many of the rows, which are shown whole, a tuning would leave out as it comes."""
    count = sum(row.num_tokens > longest for row in rows)
    if count:
        say(f"{count:,} rows are longer than {longest:,} tokens: a tuning drops them unless data.max_length is higher")


def show_dialogues(
    source: str, model: str | None, overrides: list[str] | None, *, limit: int
) -> tuple[list[ShownRow], dict[str, Any], PreTrainedTokenizerFast]:
    """Of dialogues: the first rows through the model's chat template, and the statistics of all."""
    from llmkit.data.dialogue_set import tell_findings
    from llmkit.data.show import NO_LIMIT, dialogue_row, dialogue_statistics

    if model is None:
        fix = "add --model DIR, a model or tokenizer folder"
        raise UsageError("dialogues are shown through a model's chat template", where=source, fix=fix)
    tokenizer, settings = load_template(model), recipe_for(source, overrides)
    _, rows, account = encode_file(settings, tokenizer, longest=settings.data.max_length or NO_LIMIT)
    tell_findings(account)
    if settings.data.max_length is None:
        tell_long_rows(rows, longest_row_of(model, settings))
    return [dialogue_row(row) for row in rows[:limit]], {"dialogues": dialogue_statistics(rows, account)}, tokenizer
