"""What a new user gets wrong is refused in one sentence: the value, the rule, the mend."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launch.cli import main

ENGINE = '[[engine]]\nbackend = "sim"\nmodel = "m"\n'

FILES: list[tuple[str, str]] = [
    ("[[engine]", "t.toml is no TOML: Expected ']]' at the end of an array declaration"),
    ("", 'engine: give at least one [[engine]] with a model = "…"'),
    ("engine = []", 'engine: give at least one [[engine]] with a model = "…"'),
    ('[engine]\nmodel = "m"', 'engine: give at least one [[engine]] with a model = "…"'),
    ('[[engine]]\nbackend = "sim"', "engine[0].model: missing"),
    (
        '[[engine]]\nbackend = "sim"\nmodel = ""',
        "engine[0].model: empty; name a model or its directory",
    ),
    ('[[engine]]\nbackend = "vlm"\nmodel = "m"', "backend = 'vlm': choose one of vllm, sim"),
    (ENGINE + "count = 0", "engine[0].count = 0: write a whole number from 1 to 1024"),
    (
        ENGINE + 'role = "prefil"',
        "engine[0].role = 'prefil': choose one of aggregated, prefill, decode, encode",
    ),
    (ENGINE + "block_siz = 16", "engine[0].block_siz: unknown argument of sim; did you mean block"),
    (ENGINE + 'block_size = "many"', "engine[0].block_size = 'many': write a whole number"),
    (
        ENGINE + 'kv_sources = [{ name = "x" }]',
        'write a list of { name = "…", endpoint = "tcp://HOST:PORT", rank = N }',
    ),
    (f'{ENGINE}name = "a"\n{ENGINE}name = "a"', "two engines are named 'a': give each its own"),
    (f"[gatway]\n{ENGINE}", "t.toml: gatway: unknown; did you mean gateway?"),
    (f"[gateway]\nprot = 1\n{ENGINE}", "t.toml: gateway.prot: unknown; did you mean port?"),
    (f"[gateway]\nport = 0\n{ENGINE}", "gateway.port = 0: write a whole number from 1 to 65535"),
    (f"[gateway]\nport = 70000\n{ENGINE}", "port = 70000: write a whole number from 1 to 65535"),
    (
        f'[gateway]\nport = "8000"\n{ENGINE}',
        "gateway.port = '8000': write a whole number from 1 to 65535; without quotes",
    ),
    (f'gateway = "x"\n{ENGINE}', "gateway = 'x': write a [gateway] table"),
    (
        f'[gateway]\napi_key_file = "none"\n{ENGINE}',
        "gateway.api_key_file = 'none': it cannot be read: No such file or directory",
    ),
    (f'[gateway]\nssl_certfile = "x"\n{ENGINE}', "belong together; give ssl_certfile and ssl_key"),
    (
        f'[router]\ntemperature = ".5"\n{ENGINE}',
        "router.temperature = '.5': write a number; without quotes",
    ),
    (f"[router]\ntemperature = -1\n{ENGINE}", "temperature = -1: write a number of at least 0"),
    (f"[router]\ntemprature = 1\n{ENGINE}", "router.temprature: unknown; did you mean temperatur"),
    (f'[router]\npolicy = "best"\n{ENGINE}', "policy = 'best': choose one of kv, approximate"),
    (
        f"[health]\nlimits = {{ stoped = 2 }}\n{ENGINE}",
        "health.limits.stoped: unknown; did you mean stopped?",
    ),
    (
        f'[health]\nlimits = {{ stopped = "two" }}\n{ENGINE}',
        "health.limits.stopped = 'two': write a number above 0",
    ),
    (
        f'[health]\nlimits = {{ stopped = "2" }}\n{ENGINE}',
        "health.limits.stopped = '2': write a number above 0; without quotes",
    ),
    (
        f'[[supervision.group]]\nactors = ["engin"]\n{ENGINE}',
        "supervision.group[0].actors: no actor is named 'engin'; did you mean engine?",
    ),
    (
        f'[[supervision.group]]\nactrs = ["engine"]\n{ENGINE}',
        "supervision.group[0].actrs: unknown; did you mean actors?",
    ),
    (f'[supervision]\nrestarts = "many"\n{ENGINE}', "write a whole number of at least 0"),
    (f"[record]\nflight_mb = -1\n{ENGINE}", "flight_mb = -1: write a whole number from 0 to 10485"),
    (f'[log]\nlevel = "loud"\n{ENGINE}', "choose one of debug, info, warning, error"),
    (f'name = "a b"\n{ENGINE}', "name: 'a b' cannot name a topology: use 1 to 32 of a-z, 0-9"),
    (f'drain_timeout = "long"\n{ENGINE}', "drain_timeout = 'long': write a number from 0 to 86400"),
]

VARIABLES = [
    ("CALLBOARD_GATEWAY_PORT", "eight", "write a whole number from 1 to 65535"),
    ("CALLBOARD_GATWAY_PORT", "8001", "there is no such setting; did you mean CALLBOARD_GATEWAY_"),
    ("CALLBOARD_ROUTER_TEMPERATURE", "warm", "CALLBOARD_ROUTER_TEMPERATURE=warm: write a number"),
    ("CALLBOARD_KV_EVENTS_ENABLED", "perhaps", "write true or false"),
    ("DYN_VLLM_KV_EVENT_PORT", "abc", "DYN_VLLM_KV_EVENT_PORT=abc: write a whole number"),
    ("DYN_VLLM_KV_EVENT_PORT", "80", "it must be at least 1024 and at most 49151"),
]

LINES = [
    ("chek", "there is no command 'chek': did you mean `callboard check`?"),
    ("check --nonsense", "unknown flag --nonsense: `callboard serve --help=vllm` lists them all"),
    ("check --jsn", "unknown flag --jsn: did you mean --json?"),
    ("check --jsn t.toml", "unknown flag --jsn: did you mean --json?"),
    ("check --gateway-prt 1", "unknown flag --gateway-prt: did you mean --gateway-port?"),
    ("check --port 9000", "--port: flags stand above a topology file: name one first"),
    ("check --json nowhere.toml", "nowhere.toml cannot be read: No such file or directory"),
    ("check nowhere.toml", "nowhere.toml cannot be read: No such file or directory"),
    ("check .", ". cannot be read: Is a directory"),
    ("check t.toml --name x", "--name is of a running topology: leave it out, or the file"),
    ("check t.toml --port 1 --gateway-port 2", "--gateway-port 2 and --port 1: give one of them"),
    ("up", "say which file, before its flags: callboard up FILE [FLAGS]"),
    ("serve", "say which model: callboard serve MODEL"),
    ("serve m n --engine sim", "unexpected word 'n': there is one MODEL"),
    ("serve m --engine simm", "--engine simm: choose vllm or sim"),
    ("serve m --engine sim --prt 1", "unknown flag --prt: did you mean --port?"),
    ("serve m --engine sim --port 0", "--port 0: write a whole number from 1 to 65535"),
    ("serve m --engine sim --port x", "--port x: write a whole number from 1 to 65535"),
    ("serve m --engine sim --block-size x", "--block-size x: write a whole number"),
    (
        "serve m --engine sim --block-size -1",
        "block-size is -1: write a whole number of at least 1",
    ),
    ("serve m --engine sim --served-model-name", "--served-model-name: give it a value"),
    (
        "scale engine=x",
        "'engine=x': write KIND=N (engine, gateway, router) or engine/TABLE=N, with a whole number",
    ),
    ("set router.temperature", "'router.temperature' is no change: write PATH=VALUE"),
]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in os.environ:
        if variable.startswith(("CALLBOARD_", "DYN_")):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("CALLBOARD_CACHE_DIR", str(tmp_path))  # no table of vLLM's flags
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    Path("t.toml").write_text(ENGINE)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(words)
    out, err = capsys.readouterr()
    assert max(map(len, out.splitlines()), default=0) <= 80
    assert "Traceback" not in out + err
    return code, " ".join((out + err).split())


@pytest.mark.parametrize(("text", "says"), FILES)
def test_files(capsys: pytest.CaptureFixture[str], text: str, says: str) -> None:
    Path("t.toml").write_text(text)
    code, text = said(capsys, "check", "t.toml")
    assert code == 2
    assert says in text


@pytest.mark.parametrize(("variable", "value", "says"), VARIABLES)
def test_variables(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    says: str,
) -> None:
    monkeypatch.setenv(variable, value)
    code, text = said(capsys, "check", "t.toml")
    assert code == (0 if "no such setting" in says else 2)
    assert says in text


@pytest.mark.parametrize(("line", "says"), LINES)
def test_lines(capsys: pytest.CaptureFixture[str], line: str, says: str) -> None:
    code, text = said(capsys, *line.split())
    assert code == 2
    assert says in text


@pytest.mark.parametrize("value", [".5", "0.5", "5e-1", "+.5"])
def test_numbers_as_the_environment_has_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    monkeypatch.setenv("CALLBOARD_ROUTER_TEMPERATURE", value)
    monkeypatch.setenv("CALLBOARD_GATEWAY_MIGRATION_WAIT", value)
    code, text = said(capsys, "config", "show", "t.toml")
    assert code == 0
    assert "temperature 0.5" in text
    assert "migration_wait 0.5" in text
