"""`sled demo`: runs a fleet, sends it prompts, and compares every text with the target's own.

`prompts` and `profile` say what is asked of whom, `client` asks, `board` remembers, `reference`
lets the target write alone, `compare` judges token by token, `summary` says it in words.
"""

from __future__ import annotations
