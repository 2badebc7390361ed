"""The backend's whole state and its transitions: who is open, whose draft waits, whose is being asked about, and what
an answer means. Must not ask anything or read a clock.

The counterpart of `scheduler.Scheduler` for a server that batches by itself: that server decides what runs together,
this decides whose question goes out next. Every method takes the time as `now`.
"""

from __future__ import annotations

from collections.abc import Sequence

from sled_verifier.admission import check_draft, check_open
from sled_verifier.answers import Outcome, late
from sled_verifier.batcher import Work, urgency
from sled_verifier.engine.base import EngineInfo
from sled_verifier.foretold import settle
from sled_verifier.limits import Limits
from sled_verifier.openai.target import TargetError
from sled_verifier.queue import Round, RoundQueue
from sled_verifier.refusal import Reason, Refusal
from sled_verifier.rounds import Admission, DraftRequest, Load, OpenRequest, RoundVerdict
from sled_verifier.session import Session


class Desk:
    """Sequences, waiting rounds, and the rounds that the server is being asked about."""

    def __init__(self, info: EngineInfo, limits: Limits) -> None:
        self.info = info
        self.limits = limits
        self._sessions: dict[int, Session] = {}
        self._queue = RoundQueue(limits.max_queue)
        self._asked: dict[int, tuple[Round, Session]] = {}
        self._next_key = 1

    # ---- what devices ask for

    def open(self, request: OpenRequest, now: float) -> Admission:
        """Admit a sequence.

        Raises:
            Refusal: INVALID_SAMPLING for all but plain greedy decoding, and see `admission.check_open`.
        """
        _check_sampling(request)
        check_open(request, self.info, self.limits, len(self._sessions))
        session = Session(self._next_key, request, now)
        self._next_key += 1
        self._sessions[session.key] = session
        return Admission(session.key, 0)

    def submit(self, key: int, draft: DraftRequest, now: float) -> RoundVerdict | None:
        """Queue one round; or its verdict at once when this very draft was answered before.

        Raises:
            Refusal: UNKNOWN_SEQUENCE, ROUND_IN_FLIGHT, STALE_PREFIX, QUEUE_FULL, and see
                `admission.check_draft`.
        """
        session = self._sessions.get(key)
        if session is None:
            raise Refusal(Reason.UNKNOWN_SEQUENCE, "no such sequence here; open it again")
        if key in self._queue or key in self._asked:
            raise Refusal(
                Reason.ROUND_IN_FLIGHT, "the sequence's previous draft has no verdict yet"
            )
        answered = session.replay(draft)
        if answered is not None:
            return answered
        check_draft(session, draft, self.info, self.limits)
        seconds = draft.deadline_seconds or self.limits.default_deadline_seconds
        waiting = Round(key, draft, now, now + seconds, draft.deadline_seconds is None)
        self._queue.add(waiting, retry_after_ms=200)
        session.last_used = now
        return None

    def withdraw(self, key: int) -> None:
        """Nobody waits for this sequence's round any more; one that is being asked about completes unheard."""
        self._queue.take(key)

    def close(self, key: int) -> None:
        """End a sequence; unknown keys are ignored. An answer that comes later is dropped."""
        self._sessions.pop(key, None)
        self._queue.take(key)

    # ---- questions

    def next_question(self) -> tuple[Round, Session] | None:
        """The most urgent waiting round, which from now on is being asked about; None when no place is free."""
        if not self._queue or len(self._asked) >= self.info.slots:
            return None
        waiting = min(self._queue, key=self._urgency)
        self._queue.take(waiting.key)
        session = self._sessions[waiting.key]
        self._asked[waiting.key] = (waiting, session)
        return waiting, session

    def answered(self, key: int, choices: Sequence[int], seconds: float, now: float) -> Outcome:
        """Take over the target's choices along a draft; `seconds` is how long the server took."""
        waiting, session = self._asked.pop(key)
        draft = waiting.draft
        tokens = draft.draft_tokens
        if len(choices) != len(tokens) + 1 or not all(
            0 <= token < self.info.vocab_size for token in choices
        ):
            return self._refused(waiting, "the model server chose a token outside the vocabulary")
        judgement = settle(tokens, choices)
        if judgement is None:
            raise LookupError("one choice more than draft tokens decides every draft")
        verdict = RoundVerdict(
            committed_length=draft.committed_length,
            accepted=judgement.accepted,
            verified=len(tokens),
            next_token=judgement.next_token,
            bonus=judgement.bonus,
            queue_seconds=max(0.0, now - seconds - waiting.arrived),
            compute_seconds=seconds,
            max_draft_tokens_hint=self.limits.max_draft_tokens,
            load=self.load,
        )
        session.commit(draft, verdict, now)
        return Outcome(key, draft, verdict)

    def failed(self, key: int, error: TargetError) -> Outcome:
        """The server gave no usable answer; the sequence is as it was, so the device may send the draft again."""
        waiting, _ = self._asked.pop(key)
        return self._refused(waiting, error.message, error.retry_after_ms)

    def expire(self, now: float) -> list[Outcome]:
        """Refuse the waiting rounds whose deadline has passed."""
        return [late(waiting, now, "the model server") for waiting in self._queue.expire(now)]

    def next_deadline(self) -> float | None:
        """When `expire` will next have something to do."""
        return self._queue.next_deadline()

    def forget_idle(self, now: float) -> int:
        """Close sequences that no draft has touched for `idle_seconds`; returns how many."""
        oldest = now - self.limits.idle_seconds
        idle = [
            key
            for key, session in self._sessions.items()
            if session.last_used < oldest and key not in self._queue and key not in self._asked
        ]
        for key in idle:
            self.close(key)
        return len(idle)

    # ---- observation

    @property
    def load(self) -> Load:
        """How busy this replica is."""
        tokens = sum(len(waiting.draft.draft_tokens) + 1 for waiting, _ in self._asked.values())
        return Load(len(self._queue), len(self._sessions), tokens)

    @property
    def rounds_running(self) -> int:
        """Rounds that the server is being asked about."""
        return len(self._asked)

    # ---- inside

    def _urgency(self, waiting: Round) -> float:
        weight = self._sessions[waiting.key].weight
        tokens = len(waiting.draft.draft_tokens) + 1
        return urgency(Work(waiting.key, 0, tokens, waiting.arrived, waiting.deadline, weight))

    def _refused(self, waiting: Round, sentence: str, retry_after_ms: int = 1_000) -> Outcome:
        refusal = Refusal(Reason.INTERNAL, sentence, retry_after_ms)
        return Outcome(waiting.key, waiting.draft, refusal)


def _check_sampling(request: OpenRequest) -> None:
    sampling = request.sampling
    if not sampling.greedy:
        raise Refusal(
            Reason.INVALID_SAMPLING,
            f"sampling.temperature is {sampling.temperature}; this replica's target runs elsewhere and "
            "says only its most probable tokens, so it allows only 0",
        )
    if sampling.repetition_penalty != 1:
        raise Refusal(
            Reason.INVALID_SAMPLING,
            f"sampling.repetition_penalty is {sampling.repetition_penalty}; this replica's target runs "
            "elsewhere and judges drafts without it, so it allows only 1",
        )
