"""Strangers' templates: bounded in time and memory, in a sandbox, and a next rendering works."""

from __future__ import annotations

from datetime import datetime

import pytest

from llmkit.data import template as template_module
from llmkit.data.template import RenderError, Template

DATA = {"messages": [{"role": "user", "content": "hello"}]}

ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
REASONS = {
    "{{ 'a' * 10 ** 11 }}": "memory",
    "{{ ''.__class__.__mro__ }}": "refuses turns in the order user: access to attribute '__class__'",
    "{{ messages[0].content + 1 }}": "fails",
    "{% if %}": "no template",
    "{{ messages.append(1) }}": "refuses",
    "{% set ns = namespace(a=1) %}{% set ns._b = 2 %}": "may not set|underscore|refuses",
}


@pytest.mark.parametrize("source", REASONS)
def test_what_a_template_may_not_do_is_refused_with_the_reason(source):
    with pytest.raises(RenderError, match=REASONS[source]):
        Template(source, {}).render(DATA)


def test_a_template_that_never_ends_is_stopped_and_the_next_rendering_works(monkeypatch):
    monkeypatch.setattr(template_module, "SECONDS", 0.2)
    template = Template("{% if stop %}" + ENDLESS + "{% endif %}{{ messages[0].content }}{{ eos }}", {"eos": "!"})
    with pytest.raises(RenderError, match="computes for too long"):
        template.render({**DATA, "stop": True})
    assert template.render({**DATA, "stop": False}) == "hello!"


def test_a_template_that_never_ends_to_be_compiled_is_stopped_too(monkeypatch):
    monkeypatch.setattr(template_module, "SECONDS", 0.5)
    template = Template("{{ 9**(9**9) }}", {})
    for _ in range(2):
        with pytest.raises(RenderError, match="computes for too long"):
            template.render(DATA)


def test_a_template_that_is_none_is_refused_with_the_same_reason_every_time():
    template = Template("{% if %}", {})
    for _ in range(2):
        with pytest.raises(RenderError, match="it is no template"):
            template.render(DATA)


def test_filters_and_functions_are_those_of_transformers():
    source = "{{ messages | tojson }}{{ {'b': '<é>'} | tojson(indent=1) }}{{ strftime_now('%Y') | length }}"
    assert Template(source, {}).render(DATA) == '[{"role": "user", "content": "hello"}]{\n "b": "<é>"\n}4'


def test_a_template_is_told_one_time_however_often_it_asks():
    template = Template("{{ strftime_now('%d %b %Y, %H:%M') }}", {}, datetime(2020, 1, 2, 3, 4))
    assert template.render_all([DATA, DATA]) == ["02 Jan 2020, 03:04"] * 2


def test_of_several_renderings_each_has_its_own_result(monkeypatch):
    monkeypatch.setattr(template_module, "SECONDS", 0.2)
    template = Template("{% if stop %}" + ENDLESS + "{% endif %}{{ messages[0].content + add }}", {})
    several = [{"stop": False, "add": "!"}, {"stop": True, "add": ""}, {"stop": False, "add": 3}]
    first, second, third = template.render_all([DATA | options for options in several])
    assert first == "hello!"
    assert "computes for too long" in str(second)
    assert "fails" in str(third)
