"""The `llmkit` command: one line per verb, and the one border where an LlmkitError becomes text and an exit code."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from llmkit import __version__
from llmkit.commands import (
    baseline,
    bench,
    chat,
    compare,
    data,
    doctor,
    evaluate,
    finetune,
    generate,
    model,
    peek,
    pretrain,
    recipe,
    report,
    run,
    scale,
    tokenizer,
    verify,
)
from llmkit.console import is_main_process, paint
from llmkit.errors import LlmkitError, UsageError

MistypedCommand: Any = typer.BadParameter.__base__
"""What Typer raises for flags and arguments that do not fit; it has no public name of its own."""


class ErrorBoundary(TyperGroup):
    """Turns what a user can mend into one message on stderr and an exit code; other exceptions keep their traceback."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The verbs as they follow each other, groups among them."""
        return list(VERBS)

    def invoke(self, ctx: Any) -> Any:
        """Run the command of `ctx`; errors of the LlmkitError family and of the file system end here."""
        # Sub-commands take the arguments out of the context as they parse them: look before they do.
        wants_json = "--json" in [*ctx.args, *getattr(ctx, "_protected_args", [])]
        try:
            return super().invoke(ctx)
        except LlmkitError as error:
            tell_error(error, wants_json=wants_json)
            raise typer.Exit(error.exit_code) from error
        except MistypedCommand as error:
            if not wants_json:
                raise
            path = error.ctx.command_path if error.ctx else "llmkit"
            tell_error(UsageError(error.format_message(), where=path, fix=f"see `{path} --help`"), wants_json=True)
            raise typer.Exit(UsageError.exit_code) from error
        except BrokenPipeError as error:
            # The reader (head, less) has gone: it has what it wanted. Python would complain again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from error
        except OSError as error:
            if error.filename is None and error.strerror is None:
                raise
            where = None if error.filename is None else str(error.filename)
            tell_error(UsageError(error.strerror or str(error), where=where), wants_json=wants_json)
            raise typer.Exit(UsageError.exit_code) from error


def tell_error(error: LlmkitError, *, wants_json: bool) -> None:
    """Write `error` to stderr, as text or as `{"error": {"where", "message", "fix"}}`; every rank of a job may."""
    if wants_json:
        text = json.dumps({"error": {"where": error.where, "message": error.message, "fix": error.fix}})
    else:
        text = f"{paint('error:', 'red', 'bold')} {error}"
    sys.stderr.write(text + "\n" if is_main_process() else f"rank {os.environ['RANK']}: {text}\n")


app = typer.Typer(
    cls=ErrorBoundary,
    name="llmkit",
    help="From a folder of text to a language model you can talk to and whose numbers you can trust.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def show_version(value: bool) -> None:
    """Print the version and leave."""
    if value:
        typer.echo(f"llmkit {__version__}")
        raise typer.Exit()


@app.callback()
def llmkit(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """From a folder of text to a language model you can talk to and whose numbers you can trust."""


VERBS: dict[str, tuple[Any, str]] = {
    "tokenizer": (tokenizer.app, "Train a tokenizer, measure it, see how it cuts a text."),
    "data": (data.app, "Prepare text for training, look at it, check dialogues."),
    "pretrain": (pretrain.pretrain, "Train a language model from scratch, or go on with one."),
    "finetune": (finetune.finetune, "Teach a model to answer, to prefer or to classify."),
    "evaluate": (evaluate.evaluate, "Measure a model on tasks, or compare two."),
    "generate": (generate.generate, "Write on from a prompt."),
    "chat": (chat.chat, "Talk with a model."),
    "peek": (peek.peek, "See what a model expects at each token of a text."),
    "baseline": (baseline.app, "Train an MLP, a CNN or an RNN; let one predict."),
    "compare": (compare.compare, "Hold every method against each other on one task."),
    "scale": (scale.scale, "Train several sizes and predict the next one."),
    "verify": (verify.verify, "Check that training, saving and answering are sound."),
    "model": (model.app, "Look at models, merge adapters, convert to and from GGUF."),
    "run": (run.app, "List runs, look into one, compare some, check the bytes."),
    "report": (report.report, "Put runs and results into one table and one page."),
    "recipe": (recipe.app, "Show the recipes that there are, and all their fields."),
    "bench": (bench.bench, "Measure this machine, and what a recipe will take."),
    "doctor": (doctor.doctor, "Show versions, devices, memory, disk; check a folder."),
}
"""Name -> the verb or the group of verbs, and what it does in a line: in the order of the way from text to a model."""

for name, (verb, line) in VERBS.items():
    if isinstance(verb, typer.Typer):
        app.add_typer(verb, name=name, short_help=line)
    else:
        app.command(name, short_help=line)(verb)


def main() -> None:
    """The entry point of the `llmkit` script."""
    # OpenMP threads wait for each other by spinning. Where other programs want the cores too, they would spin through
    # the time that the one they wait for needs: measured on two shared cores, 600 tokens/s instead of 1,700 (as many on
    # idle cores). The library reads this when torch loads.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # A stream that the caller closed is None in Python, and everything that writes would trip over it.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (as long as the process lives)
    app()


if __name__ == "__main__":
    main()
