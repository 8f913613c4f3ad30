"""ConfigActor's whole core: recorded, played again, and nothing secret in the journal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.config import agreement, live, told
from actors.config.core import Announce, Come, Left, Renewed, Tick
from actors.config.journal import CODEC, Settings
from actors.config.whole import Agree, Effect, Event, Given, WholeCore
from bus.identity import Identity
from bus.journal.lives import find
from bus.journal.recorder import Plan, Recorder
from bus.journal.replay import play
from launch.cores import codec_of
from schemas.config import ConfigChanged, Setting
from schemas.directory import Entry, ModelCard
from tests.actors.router.parts import CARD

SECRET = "hf-never-in-a-journal"
DOCUMENT: dict[str, Any] = {
    "engine": [{"count": 2, "hf_token": SECRET}],
    "router": {"count": 2, "settings": {"host_weight": 0.5}},
    "gateway": {"max_inflight": 7},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "engine/0": {"revision": "a", "hf_token": SECRET, "environment": {"HF_TOKEN": SECRET}},
    "engine/1": {"revision": "b", "hf_token": SECRET},
    "router/0": {"host_weight": 0.5},
    "gateway/0": {"max_inflight": 7},
    "monitor/0": {},
}


def given_options() -> Given:
    document, options = msgspec.to_builtins(DOCUMENT), msgspec.to_builtins(OPTIONS)
    return Given(1, document, options, [])


def engine(number: int, card: ModelCard | None = CARD, life: int = 1) -> Entry:
    at = f"tcp://127.0.0.1:{7000 + number}"
    return Entry(f"engine/{number}", life, at, f"{at}1", "ready", 1, "host", card=card)


def played(path: Path) -> None:
    (life,), _ = find(path)
    outcome = play(life, codec_of)
    assert outcome.difference is None
    assert outcome.events > 0
    assert outcome.passed == 0
    for file in path.rglob("*.cbj"):
        assert SECRET.encode() not in file.read_bytes()


def test_what_contradicts_is_said_before_the_card_that_shows_it():
    core = WholeCore(7, 10.0)
    core.handle(given_options())
    core.handle(Come(1.0, 1, engine(0)))
    effects = core.handle(Come(2.0, 2, engine(1)))
    kinds = [type(effect).__name__ for effect in effects]
    assert kinds == ["Accept", "Agree", "Announce"]
    (agree,) = [effect for effect in effects if isinstance(effect, Agree)]
    (problem,) = agree.message.problems
    assert (problem.rule, agree.new) == ("model", [problem])
    assert "revision a and b" in problem.says
    again = core.handle(Tick(3.0))
    assert isinstance(again[-1], Agree)
    assert (again[-1].message, again[-1].new) == (agree.message, [])
    solved = core.handle(Left(3.5, "engine/1", 1, "it stopped"))
    assert [type(effect) for effect in solved] == [Announce]
    assert core.handle(Tick(4.0))[-1] == Agree(type(agree.message)([]), [])


events: st.SearchStrategy[Event] = st.one_of(
    st.builds(
        Come,
        st.just(1.0),
        st.integers(1, 9),
        st.builds(engine, st.integers(0, 1), st.sampled_from([None, CARD]), st.integers(1, 3)),
    ),
    st.builds(Renewed, st.just(1.0), st.builds(engine, st.integers(0, 1))),
    st.builds(Tick, st.floats(1.0, 20.0)),
    st.builds(
        live.ChangeAsked,
        st.integers(1, 9),
        st.dictionaries(
            st.sampled_from(["router.temperature", "gateway.max_inflight", "health.idle", "x.y"]),
            st.sampled_from([None, 1, "2", 0.5]),
        ),
        st.just("cli/1"),
        st.just(9.0),
        st.just(["router/0", "gateway/0", "monitor/0"]),
    ),
    st.builds(
        live.RollBackAsked,
        st.just(1),
        st.integers(1, 3),
        st.just("cli/1"),
        st.just(9.0),
        st.just(["router/0", "gateway/0"]),
    ),
    st.builds(live.Kept, st.integers(1, 4), st.sampled_from(["", "no room"])),
    st.builds(
        live.Replaced,
        st.just(4),
        st.just(DOCUMENT),
        st.just(OPTIONS),
        st.just(ConfigChanged(4, text="more")),
    ),
)


def answer(effect: Effect, agree: dict[str, Setting] | None) -> list[Event]:
    """As the actors and the supervisor do."""
    if isinstance(effect, live.AskAdopt) and effect.adopt.check:
        options = effect.adopt.options if agree is None else agree
        return [live.Judged(effect.actor, effect.adopt.version, options)]
    return [live.Kept(effect.version)] if isinstance(effect, live.Keep) else []


@pytest.mark.parametrize("text", [False, True])
@given(given_events=st.lists(events, max_size=25), cut=st.integers(0, 25))
def test_any_of_its_journals_can_be_played_and_holds_no_secret(
    tmp_path_factory: pytest.TempPathFactory, text: bool, given_events: list[Event], cut: int
):
    path = tmp_path_factory.mktemp("journal")
    recorder = Recorder(Identity("config/0", 7), lambda _text: None)
    decide = recorder.of_core(CODEC, WholeCore(7, 10.0), Settings(7, 10.0))
    if cut % 2:
        recorder.start(Plan(path, 1 << 26, text=text))
    decide(given_options())
    waiting: list[Event] = []
    for number, event in enumerate([*given_events, Tick(30.0)]):
        if number == cut or (number == len(given_events) and not recorder.on):
            recorder.start(Plan(path / "later", 1 << 26, text=text))
        waiting.append(event)
        while waiting:
            for effect in decide(waiting.pop(0)):
                waiting += answer(effect, None)
    recorder.close()
    played(path)


def test_what_a_change_did_can_be_read(tmp_path: Path):
    recorder = Recorder(Identity("config/0", 7), lambda _text: None)
    recorder.start(Plan(tmp_path, 1 << 26))
    decide = recorder.of_core(CODEC, WholeCore(7, 10.0), Settings(7, 10.0))
    decide(given_options())
    asked = live.ChangeAsked(1, {"gateway.max_inflight": 9}, "cli/1", 9.0, ["gateway/0"])
    (adopt,) = decide(asked)
    (keep,) = decide(answer(adopt, None)[0])
    assert isinstance(keep, live.Keep)
    assert keep.document["engine"] == DOCUMENT["engine"], "what is written has everything"
    assert keep.actors["engine/0"]["hf_token"] == SECRET
    decide(live.Kept(2))
    recorder.close()
    played(tmp_path)


def test_rules_look_at_no_option_that_they_are_not_told():
    """A journal has no others, so such a rule would decide otherwise in a replay."""
    room = Path(agreement.__file__).parent
    asked = {
        name
        for path in (room / "agreement.py", *room.glob("rules/*.py"))
        for name in re.findall(r"(?:options|\{\}\))(?:\.get\(|\[)\"(\w+)\"", path.read_text())
    }
    assert asked
    assert asked <= {*told.OPTIONS, "environment"}


def test_restore_refuses_what_is_no_snapshot():
    with pytest.raises(msgspec.ValidationError):
        WholeCore(7, 10.0).restore(msgspec.msgpack.encode({"directory": "x"}))
