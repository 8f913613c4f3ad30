"""What must hold of every answer, whatever was done to the processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.load import Answer, Question


@dataclass(frozen=True)
class Span:
    """From the kill, or stop, of a gateway until its clients know. Then others serve its port."""

    began: float
    ended: float


@dataclass
class Verdict:
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def check(
    answers: Sequence[Answer], calm: Mapping[Question, Answer], gateway_faults: Sequence[Span]
) -> Verdict:
    """Each answer is exactly the undisturbed one; but for those of a gateway that was killed.

    A connection may break only while a gateway was killed or stopped, never for one that drains. A
    refusal must be a 503 that says when to come back, before the first token.
    """
    verdict = Verdict()
    for answer in answers:
        kind = _kind(answer, calm, gateway_faults)
        verdict.counts[kind] += 1
        if kind.startswith("wrong"):
            verdict.wrong.append(f"{answer.id}: {kind}: {answer.status} {_about(answer)}")
    return verdict


def _kind(answer: Answer, calm: Mapping[Question, Answer], gateway_faults: Sequence[Span]) -> str:
    if answer.broken:
        # What came before must still be the beginning of the answer.
        if not calm[answer.question].text.startswith(answer.text):
            return "wrong beginning"
        met = any(f.began <= answer.ended and answer.sent <= f.ended for f in gateway_faults)
        return "gateway lost" if met else "wrong: connection broken"
    if answer.status == 503 and answer.retry_after:
        return "refused"
    if not answer.whole():
        return "wrong: failed"
    return "exact" if answer.said() == calm[answer.question].said() else "wrong answer"


def _about(answer: Answer) -> str:
    return (
        f"{answer.broken}{answer.error}, {answer.sent:.2f} to {answer.ended:.2f}, "
        f"{len(answer.text)} characters, {answer.tokens} tokens"
    )
