"""The whole check of a topology before anything starts: rules, ports, models, vLLM's refusals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from launch import kv_events, nixl, preflight
from launch.connectors import Machine, this_machine
from launch.findings import Finding, Severity
from launch.rules import (
    connectors,
    disaggregation,
    engines,
    later,
    reference,
    serving,
    surroundings,
)
from launch.rules.case import Case
from launch.topology import Topology

RULES = [
    *reference.RULES,
    *connectors.RULES,
    *disaggregation.RULES,
    *serving.RULES,
    *engines.RULES,
    *surroundings.RULES,
    *later.RULES,
]
"""What must hold between values; pure. Those of `preflight` look at files and ports besides."""

_ORDER: tuple[Severity, ...] = ("error", "warning", "note")


def check(
    topology: Topology, environ: Mapping[str, str], machine: Machine | None = None
) -> list[Finding]:
    """Every finding, errors first. Looks at files and tries ports; starts nothing."""
    case = Case(topology, environ, machine or machine_of(topology))
    found = [
        *of_values(case),
        *(finding for rule in preflight.RULES for finding in rule.check(case)),
        *(_note(text) for text in kv_events.plan(topology).notes),
    ]
    return by_severity(found)


def of_values(case: Case) -> list[Finding]:
    """What values say against each other, whatever runs on this machine already."""
    events = kv_events.plan(case.topology)
    side = nixl.plan(
        case.topology, case.machine, case.environ, events, nixl.this_machines_addresses
    )
    return [*(finding for rule in RULES for finding in rule.check(case)), *side.findings]


def machine_of(topology: Topology) -> Machine:
    """This one, looked at only where an engine of vLLM is to run."""
    some = any(engine.backend == "vllm" for engine in topology.engines)
    return this_machine() if some else Machine()


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Each once, errors first."""
    return sorted(dict.fromkeys(findings), key=lambda finding: _ORDER.index(finding.severity))


def errors(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity == "error"]


def _note(text: str) -> Finding:
    return Finding(severity="note", rule="kv-events", where="kv_events", given="", says=text)
