"""`llmkit model convert`: GGUF files to model folders, and model folders to GGUF files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llmkit.commands.options import AsJson
from llmkit.console import say, warn, write_json
from llmkit.errors import ModelError, UsageError

Format = Literal["folder", "gguf"]
Numbers = Literal["auto", "fp32", "bf16", "f16", "q8_0"]

NUMBERS = {"folder": ("fp32", "bf16"), "gguf": ("f16", "q8_0")}
"""What each format can hold; the first one is what auto means."""

ROUND_TRIP = "Don't panic: 42 naïve cafés cost €1,234.50!\n\tdef f(x):  return x  # 日本語 👍"
"""A text that must come back from a tokenizer."""


def convert(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A .gguf file, or the folder of a model, adapter or run.")
    ],
    output: Annotated[Path, typer.Option(help="New folder; or a new FILE.gguf.")],
    to: Annotated[
        Format | None, typer.Option(help="Format. [default: the other one than SOURCE's]", show_default=False)
    ] = None,
    dtype: Annotated[
        Numbers, typer.Option(help="Numbers of a folder: fp32 (exact), bf16; of gguf: f16, q8_0 (half the size).")
    ] = "auto",
    as_json: AsJson = False,
) -> None:
    """Bring a model from GGUF, or to GGUF for llama.cpp and Ollama.

    \b
    Examples:
      llmkit model convert SmolLM2-135M-Instruct.Q4_1.gguf --output smollm2/model
      llmkit model convert run/model --output exported --dtype q8_0
      llmkit model convert tuned/model --to gguf --output tuned.gguf
      (then) ollama create mine -f exported/Modelfile

    From GGUF: any architecture that transformers reads; weights are dequantised, and the tokenizer is compared with the
    file's own tokens. To GGUF: llama, mistral, qwen2, qwen3 and gpt2 with a byte-level BPE tokenizer; an adapter is
    merged; a Modelfile with the chat template in Ollama's language lies beside it. There is no ONNX: the one library
    that writes models with their cache, optimum-onnx, stops at transformers 4.57.
    """
    if not source.exists():
        raise UsageError(
            "there is no such file or folder", where=str(source), fix="name a .gguf file or a model folder"
        )
    if output.suffix == ".onnx":
        fix = "name a folder or a .gguf file; for ONNX, give the folder to optimum-onnx in an environment of its own"
        raise UsageError("ONNX is not written here", where=f"--output {output}", fix=fix)
    target: Format = to or ("gguf" if source.is_dir() else "folder")
    if (target == "folder") != source.is_file():
        raise UsageError(
            f"a {'file' if source.is_file() else 'folder'} cannot be converted to a {target}",
            where="--to",
            fix="leave --to out",
        )
    numbers = NUMBERS[target][0] if dtype == "auto" else dtype
    if numbers not in NUMBERS[target]:
        raise UsageError(
            f"a {target} has no {dtype} here", where="--dtype", fix=f"choose {' or '.join(NUMBERS[target])}"
        )
    make = from_gguf if target == "folder" else to_gguf
    result = make(source, output, numbers)
    if as_json:
        write_json(result)


def from_gguf(source: Path, output: Path, numbers: str) -> dict[str, Any]:
    """A GGUF file as a model folder, read back before it is given out."""
    import torch

    from llmkit.files import check_output_free, new_folder
    from llmkit.models.causal_lm import count_parameters, save_causal_lm
    from llmkit.models.gguf_read import read_gguf

    check_output_free(output)
    found = read_gguf(source)
    for note in found.notes:
        warn(note)
    if numbers == "bf16":
        found.model.to(torch.bfloat16)
    with new_folder(output) as folder:
        save_causal_lm(found.model, found.tokenizer, folder)
        check_saved(folder, found.tokenizer)
    parameters = count_parameters(found.model)
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(found.kinds.items()))
    say(f"{output}: {found.architecture}, {parameters:,} parameters in {numbers}; the file's tensors: {kinds}")
    if not found.tokenizer.chat_template:
        say("the file has no chat template: this is no chat model")
    return {
        "output": str(output),
        "format": "folder",
        "dtype": numbers,
        "architecture": found.architecture,
        "parameters": parameters,
        "tensors": found.kinds,
        "chat_template": bool(found.tokenizer.chat_template),
        "notes": found.notes,
    }


def check_saved(folder: Path, tokenizer: Any) -> None:
    """Raise unless the saved tokenizer gives the same ids, gives texts back, and has the same template."""
    from llmkit.tokenizer import decode_ids, encode_text, load_tokenizer

    saved = load_tokenizer(folder)
    ids = encode_text(saved, ROUND_TRIP)
    if ids != encode_text(tokenizer, ROUND_TRIP) or saved.chat_template != tokenizer.chat_template:
        raise ModelError(
            "the tokenizer is not the same after it was saved", where=str(folder), fix="please report this file"
        )
    text = decode_ids(saved, ids)
    if text.strip() != ROUND_TRIP:
        warn(f"the tokenizer does not give every text back: {ROUND_TRIP!r} comes back as {text!r}")


def to_gguf(source: Path, output: Path, numbers: str) -> dict[str, Any]:
    """A model folder as a GGUF file with its Modelfile."""
    import torch

    from llmkit.models.causal_lm import load_causal_lm, model_folder
    from llmkit.models.gguf_words import gguf_package
    from llmkit.models.gguf_write import notes_about
    from llmkit.models.lora import merge_lora
    from llmkit.tokenizer import load_tokenizer

    gguf_package()
    folder = Path(model_folder(source))
    name = name_of(folder)
    tokenizer = load_tokenizer(folder)
    model = load_causal_lm(folder, dtype=torch.float32)
    if hasattr(model, "peft_config"):
        model = merge_lora(model)
        say("the adapter is merged into its model")
    with new_files(output, name, numbers) as (weights, recipe):
        kinds, has_template = write_files(model, tokenizer, weights, recipe, numbers=numbers, name=name)
        size = weights.stat().st_size
    place = output if output.suffix == ".gguf" else output / weights.name
    say(f"{place}: {size:,} bytes; tensors: {', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items()))}")
    notes = notes_about(tokenizer)
    for note in notes:
        warn(note)
    if has_template is False:
        warn("the Modelfile has no TEMPLATE: the chat template cannot be said in Ollama's language (it is in the file)")
    return {
        "output": str(output),
        "format": "gguf",
        "dtype": numbers,
        "file": str(place),
        "bytes": size,
        "tensors": kinds,
        "modelfile_template": has_template,
        "notes": notes,
    }


def name_of(folder: Path) -> str:
    """What to call a model: its folder, or the run's."""
    path = folder.resolve()
    name = path.parent.name if path.name == "model" else path.name
    return re.sub(r"[^\w.-]+", "-", name) or "model"


@contextmanager
def new_files(output: Path, name: str, numbers: str) -> Iterator[tuple[Path, Path]]:
    """Where to write weights and Modelfile: in a new folder, or as FILE.gguf and FILE.Modelfile; whole or absent."""
    from llmkit.files import aside_of, flush_entry, new_folder

    if output.suffix != ".gguf":
        with new_folder(output) as folder:
            yield folder / f"{name}-{numbers}.gguf", folder / "Modelfile"
        return
    finals = (output, output.with_suffix(".Modelfile"))
    for path in finals:
        if path.exists():
            raise UsageError("this is there already", where=str(path), fix="choose another --output")
    output.parent.mkdir(parents=True, exist_ok=True)
    asides = (aside_of(finals[0]), aside_of(finals[1]))
    try:
        yield asides
        for aside, path in zip(asides, finals, strict=True):
            flush_entry(aside)
            aside.rename(path)
    finally:
        for aside in asides:
            aside.unlink(missing_ok=True)


def write_files(
    model: Any, tokenizer: Any, weights: Path, recipe: Path, *, numbers: str, name: str
) -> tuple[dict[str, int], bool | None]:
    """Write both: (number formats of the tensors, whether the Modelfile has the template; None: there is none)."""
    from llmkit.data.dialogue import end_of_turn_ids
    from llmkit.data.ollama import find_turns, modelfile
    from llmkit.evaluation.encoding import beginning_ids
    from llmkit.models.gguf_write import write_gguf

    ends = end_of_turn_ids(tokenizer) if tokenizer.chat_template else []
    adds_bos = bool(beginning_ids(tokenizer))
    kinds = write_gguf(
        model,
        tokenizer,
        weights,
        kind=numbers,  # type: ignore[arg-type]
        name=name,
        adds_bos=adds_bos,
        end_of_turn=ends[0] if ends else None,
    )
    turns = find_turns(tokenizer) if tokenizer.chat_template else None
    text = modelfile(
        final_name(weights),
        turns,
        stops=[str(tokenizer.backend_tokenizer.id_to_token(index)) for index in ends],
        adds_bos=adds_bos,
        context=model.config.max_position_embeddings,
    )
    recipe.write_text(text, encoding="utf-8")
    return kinds, ("TEMPLATE" in text if tokenizer.chat_template else None)


def final_name(path: Path) -> str:
    """The name that a file will have which is now written aside, as `.NAME.PID.tmp`."""
    found = re.fullmatch(r"\.(.+)\.\d+\.tmp", path.name)
    return found[1] if found else path.name
