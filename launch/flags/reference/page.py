"""The page of Dynamo's flags: `python -m launch.flags.reference > docs/from-dynamo.md`."""

from __future__ import annotations

from collections.abc import Iterable

from launch.flags.reference import ROWS, Fate, Row

HEAD = """# Coming from Dynamo

Made by `python -m launch.flags.reference`; do not edit. Flags and variables of Dynamo's vLLM
worker, router and frontend, of its earlier releases and of 1.6.1, and what becomes of each here.
`callboard serve` and `callboard up` take the flags, `[[engine]]` tables those of engines by their
name (`is_prefill_worker = true`), and all read the variables. Booleans take `--x`, `--no-x`, and
in the environment true, 1, yes, on, or false, 0, no, off: any other word is refused, where Dynamo
takes it as false.

- **sets**: it sets the setting of Callboard's that is named, which stands above it where both are
  variables.
- **no effect**: it is accepted, and a note says why nothing follows from it.
- **later**: it is parsed and checked (`callboard check`), and refused at a start until it is
  served.
- **refused**: with what to use instead.
- **read**: a variable that vLLM or an actor reads itself.

Where earlier releases and 1.6.1 differ, both work: `--is-prefill-worker` and
`--disaggregation-mode prefill`; `--connector nixl` is taken, which 1.6.1 refuses, and means
nothing is moved where it is left out, as there; KV events are on by default, as they were;
several names of a model are taken, as in 1.6.1.

Not taken: `--tokenizer`, since vLLM has a flag of that name and means the model's tokenizer by
it.
"""
_TITLES = {
    "1.2": "What all workers share",
    "1.3": "vLLM worker, earlier releases",
    "1.4": "vLLM worker, 1.6.1",
    "4.5": "Router",
    "11.3": "Frontend",
}
_WORDS: dict[Fate, str] = {
    "mapped": "sets",
    "idle": "no effect",
    "later": "later",
    "refused": "refused",
    "read": "read",
}


def page() -> str:
    parts = [HEAD]
    for table, title in _TITLES.items():
        rows = [row for row in ROWS if row.table == table]
        lines = "\n".join(_line(row) for row in rows)
        head = "| flag | variable | here | |\n|---|---|---|---|"
        parts.append(f"## {title}\n\n{head}\n{lines}\n")
    return "\n".join(parts)


def _line(row: Row) -> str:
    fate = _WORDS[row.fate]
    if row.fate == "mapped":
        fate = f"sets `{row.to.replace('engine.args.', 'engine.')}`"
    return f"| {_names(row.flags)} | {_names(row.variables)} | {fate} | {_says(row)} |"


def _says(row: Row) -> str:
    text = row.says.replace("|", "\\|")
    if row.words:
        others = ", ".join(f"{word} = {to}" for word, to in row.words.items() if word != to)
        return f"{text} {others}" if others else text
    return f"{text[:1].upper()}{text[1:]}"


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
