"""The environment as a layer: Callboard's variables, and Dynamo's where those say the same."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches

from launch.findings import Finding
from launch.flags.reference import by_variable
from launch.flags.reference.translate import Translated, Wrote, translate, written
from launch.flags.values import BadValue
from launch.layers import Layer
from launch.settings import settings

PREFIX = "CALLBOARD_"


def environment_layer(environ: Mapping[str, str], *, without: Collection[str] = ()) -> Layer:
    """What `environ` gives. A variable that is empty gives nothing.

    Callboard's own stand above Dynamo's. `without` are fields of Dynamo's that the command line
    gives.
    """
    found = _dynamos(environ, without)
    for setting in settings():
        if given := environ.get(setting.variable):
            found.put(setting.section, setting.key, given, setting.variable)
    found.findings += _misspelt(environ)
    return Layer(
        "environment",
        found.values,
        found.place,
        text=True,
        engine=found.engine,
        findings=found.findings,
    )


def _dynamos(environ: Mapping[str, str], without: Collection[str]) -> Translated:
    given: dict[str, Wrote] = {}
    wrong = []
    for variable, row in by_variable().items():
        value = environ.get(variable)
        if not value or row.fate == "read" or row.field in without or row.field in given:
            continue
        try:
            given[row.field] = written(row, variable, value, text=True)
        except BadValue as error:
            where = row.to or row.field
            wrong.append(
                Finding(
                    severity="error",
                    rule="bad-value",
                    where=where,
                    given=f"{variable}={value}",
                    says=str(error),
                )
            )
    found = translate(given)
    found.findings += wrong
    return found


def _misspelt(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Variables that look like settings and are none."""
    known = [setting.variable for setting in settings()]
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in known:
            continue
        # Others are not Callboard's settings, but of its processes and tests: only near ones count.
        for near in get_close_matches(variable, known, n=1, cutoff=0.9):
            yield Finding(
                severity="warning",
                rule="unknown-variable",
                where="environment",
                given=variable,
                says="there is no such setting",
                mend=f"did you mean {near}?",
            )
