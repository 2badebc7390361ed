from __future__ import annotations

from collections.abc import Sequence

import pytest

from sled_edge.config import DrafterKind, parse_config
from sled_edge.drafter.factory import DrafterUnusable, build_drafter
from sled_edge.drafter.fake import FakeDrafter, sure_logits
from sled_edge.fake_link import ToyTarget
from sled_speculation.sampling import SamplingParams

TARGET = ToyTarget()
LEAST = "deviceId: pi-1\nverifiers: ['a:1']\n"


def _always(_confidences: Sequence[float]) -> bool:
    return True


@pytest.mark.parametrize("accuracy", [0.0, 0.3, 0.8, 1.0])
def test_is_right_as_often_as_it_is_told(accuracy: float) -> None:
    """1,000 independent first tokens; a share beyond 0.06 of the aim has a chance below 1 in 10,000 (seed is fixed)."""
    drafter = FakeDrafter(TARGET.logits, accuracy=accuracy, seed=3)
    hits = 0
    for length in range(1, 1001):
        prefix = (1,) * length
        proposal = drafter.propose(1, prefix, 1, SamplingParams(), _always)
        hits += proposal.tokens[0] == TARGET.next_token(prefix)
    assert abs(hits / 1000 - accuracy) <= (0.06 if 0 < accuracy < 1 else 0.0)


def test_the_same_request_gives_the_same_draft() -> None:
    sampling = SamplingParams(temperature=0.9, seed=5)
    drafts = [
        FakeDrafter(TARGET.logits, accuracy=0.5).propose(n, (1, 2, 3), 6, sampling, _always)
        for n in (1, 2)
    ]
    assert drafts[0].tokens == drafts[1].tokens
    assert drafts[0].distributions == drafts[1].distributions
    assert len(drafts[0].distributions) == len(drafts[0].confidences) == 6
    for token, distribution in zip(drafts[0].tokens, drafts[0].distributions, strict=True):
        assert distribution.probability(token) > 0


def test_a_known_text_makes_logits() -> None:
    logits = sure_logits(lambda prefix: len(prefix) % 7, 7)
    assert int(logits((1, 2, 3)).argmax()) == 3
    proposal = FakeDrafter(logits, accuracy=1.0).propose(
        1, (0, 0), 3, SamplingParams(temperature=1.0, seed=1), _always
    )
    assert proposal.tokens == (2, 3, 4)


def test_accuracy_is_a_share() -> None:
    with pytest.raises(ValueError, match="accuracy"):
        FakeDrafter(TARGET.logits, accuracy=1.5)


@pytest.mark.parametrize("kind", [DrafterKind.NGRAM, DrafterKind.FAKE])
def test_the_configured_kind_is_built(kind: DrafterKind) -> None:
    drafter = build_drafter(parse_config(LEAST + f"drafter: {{kind: {kind}}}"))
    assert drafter.info.kind == kind.value
    assert drafter.info.tokenizer_fingerprint == b""
    drafter.close()


def test_a_model_that_is_not_there_is_named() -> None:
    config = parse_config(
        LEAST + "drafter: {kind: llamacpp, model: {name: small, path: /nowhere/small.gguf}}"
    )
    with pytest.raises(DrafterUnusable, match=r"drafter\.model\.path: there is no file /nowhere"):
        build_drafter(config)
