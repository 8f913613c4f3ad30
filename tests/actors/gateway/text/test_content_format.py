"""Templates that loop over a message's content want parts."""

from __future__ import annotations

import pytest

from actors.gateway.text.template import compile_template
from tests.actors.gateway.text.chats import TEMPLATES


@pytest.mark.parametrize(
    ("name", "parts"), [("chatml", False), ("llama3", False), ("mistral", False), ("parts", True)]
)
def test_templates_of_models(name, parts):
    assert compile_template(TEMPLATES[name]).wants_parts is parts


LOOP = "{% for m in messages %}"
END = "{% endfor %}"


@pytest.mark.parametrize(
    "template",
    [
        LOOP + "{% for p in m.content %}x{% endfor %}" + END,
        LOOP + "{% for p in m['content'] | list %}x{% endfor %}" + END,
        LOOP + "{% set c = m['content'] %}{% for p in c %}x{% endfor %}" + END,
        LOOP
        + "{% set c = m.content if m.content else [] %}{% for p in c[1:] %}x{% endfor %}"
        + END,
        "{% set rest = messages[1:] %}{% for m in rest | list %}{% for p in m.content %}x"
        + END
        + END,
        "{% macro show(c, n=1) %}{% for p in c %}x{% endfor %}{% endmacro %}"
        + LOOP
        + "{{ show(n=2, c=m.content) }}"
        + END,
    ],
)
def test_loops_over_content_however_it_is_named(template):
    assert compile_template(template).wants_parts


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0].content }}",
        LOOP + "{% for c in m.tool_calls %}x{% endfor %}" + END,
        LOOP + "{% for p in documents %}{{ p.content }}{% endfor %}" + END,
        "{% for d in documents %}{% for p in d.content %}x{% endfor %}{% endfor %}",
        "{% macro show(c) %}{% for p in c %}x{% endfor %}{% endmacro %}{{ show(tools) }}",
        LOOP + "{% set m = m %}{% set n = n %}{{ m.content }}" + END,
    ],
)
def test_other_loops_do_not_count(template):
    assert not compile_template(template).wants_parts
