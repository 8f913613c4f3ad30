"""Reading log files: merged in time order, complete lines only, text that is no JSON kept."""

from __future__ import annotations

import json

from launch.cli.log_lines import LogReader, renderer, severity


def line(time: int, event: str, **more: object) -> str:
    return json.dumps({"timestamp": f"2026-01-01T00:00:{time:02}Z", "event": event, **more}) + "\n"


def test_files_are_merged_in_time_order(tmp_path) -> None:
    (tmp_path / "engine-a-0.log").write_text(line(1, "a") + "raw words\n" + line(4, "d"))
    (tmp_path / "router-0.log").write_text(line(2, "b", actor="router/0", level="error"))
    lines = LogReader(tmp_path, ["engine/a-0", "router/0"]).read()
    assert [found.event.get("event", found.raw) for found in lines] == ["a", "raw words", "b", "d"]
    assert [found.actor for found in lines] == [
        "engine/a-0",
        "engine/a-0",
        "router/0",
        "engine/a-0",
    ]
    assert [found.level for found in lines] == ["info", "info", "error", "info"]


def test_only_what_is_new_and_whole_is_read(tmp_path) -> None:
    file = tmp_path / "x.log"
    reader = LogReader(tmp_path, [])
    assert reader.read() == []
    text = line(1, "a") + line(2, "b")
    for end in range(len(text) + 1):
        file.write_text(text[:end])
        seen = [found.event["event"] for found in reader.read()]
        complete = text[:end].count("\n") - text[: end - 1].count("\n") if end else 0
        assert len(seen) == complete
    assert reader.read() == []


def test_rendering_keeps_what_is_there_and_drops_nothing_values(tmp_path) -> None:
    (tmp_path / "x.log").write_text(
        line(1, "ready", level="info", actor="x", detail=None, n=3) + "raw\n"
    )
    first, second = map(renderer(colours=False), LogReader(tmp_path, []).read())
    assert first == "2026-01-01T00:00:01Z info    x             ready n=3"
    assert second == "2026-01-01T00:00:01Z x  raw"


def test_json_of_others_is_shown_too(tmp_path) -> None:
    (tmp_path / "x.log").write_text('{"foo": 1}\n[1]\n{}\n{"event": 3, "level": null}\n')
    shown = list(map(renderer(colours=True), LogReader(tmp_path, []).read()))
    assert len(shown) == 4
    assert "foo" in shown[0]
    assert shown[1].endswith("[1]")


def test_unknown_levels_are_never_hidden() -> None:
    assert severity("debug") < severity("info") < severity("warning") < severity("error")
    assert severity("nonsense") == severity("error")
