"""The plan and the checker themselves."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import get_args

from tests.chaos.checker import Span, check
from tests.chaos.load import Answer, Question
from tests.chaos.plan import Action, plan

ACTORS = ["engine/0", "engine/1", "gateway/0", "router/0", "config/0"]
QUESTION = Question(1, 3)
CALM = Answer(QUESTION, "calm", 0.0, 1.0, status=200, text="abc", tokens=3, reason="length")


def kind(**changes) -> str:
    verdict = check([replace(CALM, **changes)], {QUESTION: CALM}, [Span(10.0, 12.0)])
    ((found, _),) = verdict.counts.items()
    assert bool(verdict.wrong) == found.startswith("wrong")
    return found


def test_a_seed_fixes_the_plan() -> None:
    assert plan(7, 60, ACTORS) == plan(7, 60, ACTORS)
    assert plan(7, 60, ACTORS) != plan(8, 60, ACTORS)


def test_every_action_meets_every_kind() -> None:
    met = {(fault.action, fault.actor.partition("/")[0]) for fault in plan(1, 60, ACTORS)}
    kinds = ("engine", "gateway", "router", "config")
    assert met == set(itertools.product(get_args(Action), kinds))


def test_an_answer_is_exact_or_wrong() -> None:
    assert kind() == "exact"
    assert kind(text="abd") == "wrong answer"
    assert kind(text="abcc") == "wrong answer"
    assert kind(tokens=4) == "wrong answer"
    assert kind(reason="stop") == "wrong answer"
    assert kind(error="engine died") == "wrong: failed"
    assert kind(status=500, error="no") == "wrong: failed"


def test_only_a_retryable_refusal_is_one() -> None:
    assert kind(status=503, error="later", retry_after="1") == "refused"
    assert kind(status=503, error="never") == "wrong: failed"


def test_connections_break_only_with_a_gateway() -> None:
    lost = {"text": "ab", "broken": "ReadError()"}
    assert kind(**lost, sent=9.0, ended=10.5) == "gateway lost"
    assert kind(**lost, sent=11.0, ended=30.0) == "gateway lost"
    assert kind(**lost, sent=8.0, ended=9.0) == "wrong: connection broken"
    assert kind(**lost, sent=13.0, ended=14.0) == "wrong: connection broken"
    assert kind(text="x", broken="ReadError()", sent=9.0, ended=10.5) == "wrong beginning"
