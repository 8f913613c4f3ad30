"""Whether the actors of a running topology agree with each other, as ConfigActor sees it."""

from __future__ import annotations

from launch.cli.target import ask, choose
from launch.findings import Finding


def live_findings(name: str | None) -> list[Finding]:
    """What they say against each other now. Raises `Failure` where nothing can be asked."""
    from launch.client import Client
    from schemas.agreement import Agreement, AskAgreement

    with Client(choose(name).run_dir) as client:
        agreement = ask(client, "config/0", AskAgreement(), Agreement)
    return [
        Finding(
            severity=problem.severity,
            rule=f"live-{problem.rule}",
            where=", ".join(problem.actors),
            given="",
            says=problem.says,
            mend=problem.mend,
        )
        for problem in agreement.problems
    ]
