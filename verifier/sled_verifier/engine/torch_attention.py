"""Ragged attention over paged keys and values, as transformers' attention interface calls it. Needs torch; knows no
model, and decides nothing about slots.

A step is one row of tokens, [1, tokens, ...]: the sequences' parts one after another, without padding.
The model's own code computes everything else and hands queries, keys and values over, layer by layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from sled_verifier.engine.blocks import BlockCopy

NAME = "sled_paged"
"""Under which the function is registered with transformers."""


class PagedPools:
    """Keys and values of all layers: a pool of `blocks` blocks for each, made when a layer first runs."""

    def __init__(self, blocks: int, block_tokens: int) -> None:
        self._blocks = blocks
        self._block_tokens = block_tokens
        self._pools: dict[int, tuple[Any, Any]] = {}

    @property
    def layers(self) -> int:
        """Layers that have run."""
        return len(self._pools)

    def copy(self, copies: Sequence[BlockCopy]) -> None:
        """Copy whole blocks, in every layer."""
        for pools in self._pools.values():
            for pool in pools:
                for copy in copies:
                    pool[copy.target] = pool[copy.source]

    def write(self, layer: int, cells: Any, key: Any, value: Any) -> tuple[Any, Any]:
        """Store `key` and `value` [tokens, heads, width] at `cells` [tokens]; returns the layer's pools
        [blocks, block_tokens, heads, width].
        """
        pools = self._pools.get(layer)
        if pools is None:
            pools = self._pools[layer] = (self._pool(key), self._pool(value))
        for pool, new in zip(pools, (key, value), strict=True):
            pool.view(-1, *new.shape[1:])[cells] = new
        return pools

    def _pool(self, like: Any) -> Any:
        return like.new_empty((self._blocks, self._block_tokens, *like.shape[1:]))


@dataclass(frozen=True, slots=True)
class Segment:
    """One sequence's part of a step: rows `start` to `stop`, which end its `length` tokens; `table` are its
    blocks [blocks].
    """

    start: int
    stop: int
    length: int
    table: Any


@dataclass(frozen=True, slots=True)
class PagedStep:
    """What attention has to know of one step; `cells` [tokens] is where the new keys and values go."""

    pools: PagedPools
    cells: Any
    segments: tuple[Segment, ...]


def paged_attention(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    *,
    paged_step: PagedStep | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Any = None,
    **_: Any,
) -> tuple[Any, None]:
    """An attention function of transformers: query, key, value [1, heads, tokens, width] to
    [1, tokens, heads, width].

    `s_aux` are attention sinks [heads]. The mask that a model makes is not needed and is ignored.

    Raises:
        ValueError: the model lost `paged_step` on the way, so it cannot be run in this way.
    """
    if paged_step is None:
        raise ValueError(f"{type(module).__name__} does not pass on what its attention needs")
    keys, values = paged_step.pools.write(
        module.layer_idx, paged_step.cells, key[0].transpose(0, 1), value[0].transpose(0, 1)
    )
    output = query.new_empty((query.shape[2], query.shape[1], values.shape[-1]))
    for segment in paged_step.segments:
        first = segment.length - (segment.stop - segment.start)
        low = max(0, first - sliding_window + 1) if sliding_window else 0
        part = _attend(
            query[:, :, segment.start : segment.stop],
            _gather(keys, segment, low),
            _gather(values, segment, low),
            mask=_mask(first - low, segment.length - low, sliding_window, query.device),
            scale=scaling,
            softcap=softcap,
            sinks=s_aux,
        )
        output[segment.start : segment.stop] = part[0].transpose(0, 1)
    return output[None], None


def _gather(pool: Any, segment: Segment, low: int) -> Any:
    """The sequence's keys or values from position `low` on: [1, heads, length, width]."""
    rows = pool[segment.table].flatten(0, 1)[low : segment.length]
    return rows.transpose(0, 1)[None]


def _mask(first: int, length: int, window: int | None, device: Any) -> Any:
    """True where the query at position `first` + row may look: [rows, length]; None when everywhere."""
    if length - first == 1:
        return None
    at = torch.arange(first, length, device=device)[:, None]
    seen = torch.arange(length, device=device)[None]
    allowed = seen <= at
    return allowed & (seen > at - window) if window else allowed


def _attend(
    query: Any, key: Any, value: Any, *, mask: Any, scale: float | None, softcap: Any, sinks: Any
) -> Any:
    if softcap is None and sinks is None:
        return functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    if sinks is not None:
        column = sinks.to(scores.dtype).view(1, -1, 1, 1).expand(1, -1, scores.shape[2], 1)
        scores = torch.cat((scores, column), dim=-1)
    weights = functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return weights[..., : key.shape[2]] @ value
