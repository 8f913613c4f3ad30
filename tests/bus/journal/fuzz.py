"""`fuzz.py REDACT`: random and damaged messages for this build of the extension.

A program of its own, since sanitizers want to be in a process from its start.
"""

from __future__ import annotations

import importlib.util
import random
import sys

import msgspec

from bus.journal import redact
from schemas.generate import Delta, Generate, Sampling, Step

STEPS, DAMAGES = 800, 20

ROLES = redact._GENERATE, redact._SAMPLING
encode = msgspec.msgpack.Encoder().encode


def random_delta(dice: random.Random) -> Delta:
    if dice.random() < 0.5:
        return Delta(dice.getrandbits(40), [dice.getrandbits(18)])
    return Delta(
        dice.getrandbits(20),
        [dice.getrandbits(dice.randrange(1, 33)) for _ in range(dice.choice([0, 1, 3, 20, 70000]))],
        dice.choice([None, "stop", "length"]),
        dice.choice([None, 7, "é" * dice.randrange(300)]),
        cached_tokens=dice.choice([None, 5]),
        text=dice.choice([None, "", "ü€" * dice.randrange(40000)]),
        transfer=dice.choice([None, {"a": [1.5, {"b": b"c"}] * dice.randrange(20)}]),
    )


def random_request(dice: random.Random) -> Generate:
    def tokens() -> list[int]:
        return [dice.getrandbits(20) for _ in range(dice.choice([0, 1, 15, 16, 300]))]

    words = ["é" * dice.randrange(40) for _ in range(dice.randrange(20))]
    sampling = Sampling(
        stop_token_ids=tokens(),
        allowed_token_ids=dice.choice([None, tokens()]),
        logit_bias=dice.choice([None, {7: 0.5}]),
        bad_words=words,
        stop=words[:3],
        extra_args=dice.choice([None, {"a": [1, "b"]}]),
    )
    text = dice.choice([None, "ü€" * dice.randrange(400)])
    return Generate("id", "model", sampling, tokens(), text, salt=text, resumed=tokens())


def damaged(dice: random.Random, body: bytes) -> bytearray:
    torn = bytearray(body[: dice.randrange(min(len(body), 500) + 1)])
    for _ in range(dice.randrange(3) if torn else 0):
        torn[dice.randrange(len(torn))] = dice.getrandbits(8)
    return torn


def main() -> None:
    spec = importlib.util.spec_from_file_location("_redact", sys.argv[1])
    assert spec is not None
    assert spec.loader is not None
    native = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(native)
    redact.native = None
    dice = random.Random(6)  # the same each time
    for _ in range(STEPS):
        deltas = [random_delta(dice) for _ in range(dice.randrange(4))]
        step, pairs = Step(deltas), [*enumerate(deltas)]
        body, data = encode(step), encode(pairs)
        assert native.step(body) == encode(redact.step(step))
        assert native.keyed(data) == encode(redact.keyed(pairs))
        request = random_request(dice)
        asked = encode(request)
        assert native.message(asked, *ROLES) == encode(redact.generate(request))
        for _ in range(DAMAGES):
            torn = damaged(dice, body)
            # In memory of just its size, so that the sanitizer sees what is read behind it.
            shown = native.step(bytes(torn)), native.keyed(bytes(torn[6:]))
            assert all(one is None or len(one) <= len(torn) for one in shown)
            torn = damaged(dice, asked)
            shown = native.message(bytes(torn), *ROLES)
            assert shown is None or len(shown) <= len(torn)
    print(f"equal after {STEPS} steps")  # noqa: T201


if __name__ == "__main__":
    main()
