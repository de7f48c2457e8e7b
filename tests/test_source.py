"""What the name of a model leads to."""

from __future__ import annotations

import huggingface_hub
import pytest

from llmkit.errors import ModelError
from llmkit.source import check_hub_has
from llmkit.tokenizer import load_tokenizer


@pytest.fixture
def asked(monkeypatch):
    """The names that a hub without any model was asked for."""
    names = []

    def model_info(self, name, **options):
        names.append(name)
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    return names


def test_the_hub_is_asked_once_for_what_may_be_a_mistyped_folder(asked):
    with pytest.raises(ModelError, match=r"no such folder here, nor .* hub \(no network\)"):
        load_tokenizer("run/model")
    assert asked == ["run/model"]


def test_what_was_fetched_before_is_not_asked_for(asked, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: f"/cache/{name}/{file}")
    check_hub_has("owner/name")
    assert asked == []
