"""Every limit of the wire in one place, so that both sides refuse the same things. Holds numbers only, no checks.

A verifier may announce lower values in `sled.v1.Model`; it never accepts more than these.
"""

from __future__ import annotations

from typing import Final

REVISION: Final = 1
"""Highest revision of sled.v1 that this package speaks."""

MIN_REVISION: Final = 1
"""Lowest revision of sled.v1 that this package speaks."""

MAX_DRAFT_TOKENS: Final = 16
"""Draft tokens of one round that a verifier accepts unless it is configured otherwise."""

WIRE_MAX_DRAFT_TOKENS: Final = 32
"""Draft tokens of one round that any configuration may allow; frames above are malformed."""

MAX_FRAME_ROUNDS: Final = 64
"""Drafts of one `Drafts` frame, and verdicts of one `Verdicts` frame."""

MAX_RUN_TOKENS: Final = 64
"""`Draft.run_tokens`; more are taken as so many."""

MAX_DRAFT_PROBS: Final = 64
"""Entries that the draft distribution of one token may have."""

DEFAULT_DRAFT_PROBS: Final = 32
"""Entries that a drafter keeps unless it is configured otherwise."""

MAX_VOCAB_SIZE: Final = 1 << 24
"""Token ids lie below this; far above every published vocabulary."""

MAX_PROMPT_TOKENS: Final = 131_072
"""Tokens of one prompt; a model's context may allow fewer."""

MAX_SEQUENCE_TOKENS: Final = 262_144
"""Prompt and committed tokens of one `Open` together."""

MAX_DRAFT_PROBS_BYTES: Final = WIRE_MAX_DRAFT_TOKENS * (2 + MAX_DRAFT_PROBS * 5)
"""A packed blob of draft distributions: per token a count of two bytes at most, per entry a code and an id."""

MAX_SCHEMA_BYTES: Final = 16 * 1024
"""`Guide.json_schema` in UTF-8."""

MAX_FRAME_BYTES: Final = 2 * 1024 * 1024
"""Any serialised message. Holds the largest `Open` (5 bytes a token) and a tokenizer chunk with room to spare."""

TOKENIZER_CHUNK_BYTES: Final = 1024 * 1024
"""Bytes of one `TokenizerChunk.data`."""

MAX_TOKENIZER_BYTES: Final = 256 * 1024 * 1024
"""Vocabulary-only GGUF file as a whole; a device stops reading here."""

MAX_DEVICE_ID_BYTES: Final = 253
"""`Hello.device_id` in UTF-8: the length of a DNS name, which Kubernetes node names obey."""

MAX_NAME_BYTES: Final = 253
"""Other names in UTF-8: device class, draft model, model, replica."""

MAX_FINGERPRINT_BYTES: Final = 64
"""`tokenizer_fingerprint`; SHA-256 takes 32."""

MAX_TOKEN_BYTES: Final = 4096
"""A bearer token in the metadata."""

MAX_SEQUENCES_PER_STREAM: Final = 256
"""Open sequences of one stream that any configuration may allow."""

MAX_DEADLINE_MS: Final = 120_000
"""`Draft.deadline_ms`; longer wishes are shortened to this."""

MAX_MESSAGE_CHARACTERS: Final = 500
"""`Refused.message` and `Drain.reason`."""
