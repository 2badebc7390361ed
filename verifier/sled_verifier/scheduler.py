"""The verifier's whole state and its transitions: schedule a step, apply its result. Must not run
anything or read a clock.

Every method takes the time as `now` (seconds, any origin) and returns values, so that a live
server, a test and a simulator drive the same code. One caller at a time; between `plan` and the
`apply` of that job everything but `plan` may be called.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from sled_speculation.acceptance import Judgement
from sled_verifier.admission import check_draft, check_open
from sled_verifier.answers import Answers, Outcome, late
from sled_verifier.batcher import Share, Work, plan_step
from sled_verifier.engine.base import EngineInfo
from sled_verifier.foretold import candidate_of, carried_along, may_foretell
from sled_verifier.gathering import Hold, hold_for
from sled_verifier.job import Job, JobFailure, JobItem, JobResult, Trial
from sled_verifier.limits import Limits
from sled_verifier.load_control import Candidate, LoadControl
from sled_verifier.queue import Round, RoundQueue
from sled_verifier.refusal import Reason, Refusal
from sled_verifier.residency import Residency, log_held
from sled_verifier.rounds import Admission, DraftRequest, Load, OpenRequest, RoundVerdict
from sled_verifier.session import Session
from sled_verifier.slots import Occupancy, SlotPolicy

MAX_ATTEMPTS = 3
"""Steps that a round may be in while others in them make the engine fail."""
DECODING_SECONDS = 1.0
"""A round this recent means that more are on their way, so prompts keep to their share."""


class Scheduler:
    """Sessions, waiting rounds and slots of one engine."""

    def __init__(
        self,
        info: EngineInfo,
        limits: Limits,
        policy: SlotPolicy | None = None,
        control: LoadControl | None = None,
    ) -> None:
        self.info = info
        self.limits = limits
        self.control = control or LoadControl(limits.max_draft_tokens)
        self.control.serves(info)
        self.residency = Residency(
            info.slots, policy or SlotPolicy(), self._occupancy, neighbours=info.rectangular
        )
        self._answers = Answers(self.control, lambda: self.load)
        self._budget = limits.budget(info.max_step_tokens)
        self._sessions: dict[int, Session] = {}
        self._queue = RoundQueue(limits.max_queue)
        self._in_flight: dict[int, Round | None] = {}
        self._closing: dict[int, Session] = {}
        self.foretold_tokens = 0
        """Tokens that were foretold in steps of others, since the start."""
        self._next_key = 1
        self._last_round_at = float("-inf")
        self._step_tokens = 0
        self._step_seconds = 0.0

    # ---- what devices ask for

    def open(self, request: OpenRequest, now: float) -> Admission:
        """Admit a sequence; its prompt is computed from the next step on.

        Raises:
            Refusal: see `admission.check_open`.
        """
        check_open(request, self.info, self.limits, len(self._sessions))
        session = Session(self._next_key, request, now)
        self._next_key += 1
        self._sessions[session.key] = session
        self.control.opened(session.key, request)
        return Admission(session.key, self.residency.expect(session))

    def submit(self, key: int, draft: DraftRequest, now: float) -> Outcome | RoundVerdict | None:
        """Queue one round (None); or answer it at once: with an Outcome when the target's choice is known already, with the
        old verdict when this very draft was answered before.

        Raises:
            Refusal: UNKNOWN_SEQUENCE, ROUND_IN_FLIGHT, STALE_PREFIX, QUEUE_FULL, and see
                `admission.check_draft`.
        """
        session = self._sessions.get(key)
        if session is None:
            raise Refusal(Reason.UNKNOWN_SEQUENCE, "no such sequence here; open it again")
        if key in self._queue or self._in_flight.get(key) is not None:
            raise Refusal(
                Reason.ROUND_IN_FLIGHT, "the sequence's previous draft has no verdict yet"
            )
        answered = session.replay(draft)
        if answered is not None:
            return answered
        check_draft(session, draft, self.info, self.limits)
        seconds = draft.deadline_seconds or self.limits.default_deadline_seconds
        waiting = Round(key, draft, now, now + seconds, draft.deadline_seconds is None)
        session.rhythm.heard(now, ahead=draft.ahead)
        known = self._answers.foretold(session, waiting, 0.0, now)
        if known is None:
            self._queue.add(waiting, retry_after_ms=200)
        session.last_used = now
        return known

    def withdraw(self, key: int) -> None:
        """Nobody waits for this sequence's round any more; one that is running completes
        unheard.
        """
        self._queue.take(key)

    def close(self, key: int) -> None:
        """End a sequence and free everything it holds; unknown keys are ignored."""
        session = self._sessions.pop(key, None)
        if session is None:
            return
        self.control.closed(key)
        self._queue.take(key)
        if key in self._in_flight:
            self._closing[key] = session
            self.residency.stop_computing(key)
        else:
            self.residency.release(key)

    # ---- one step

    def hold(self, now: float) -> Hold | None:
        """Whether to plan the next step later, see `gathering`."""
        if not self._queue:
            return None
        due = (
            session.rhythm.due_at(now)
            for key, session in self._sessions.items()
            if self._resident(key)
        )
        waiting = len(self._queue)
        return hold_for(waiting, (at for at in due if at is not None), self._step_seconds, now)

    def plan(self, now: float) -> Job | None:
        """The next step, or None when there is nothing to run. A job must be run and applied before
        the next plan.
        """
        homeless = [self._due(key) for key in self._wanted() if not self._resident(key)]
        operations = self.residency.settle(homeless, self._sessions, now)
        works = [self._due(key) for key in self._wanted() if self._resident(key)]
        works += self._carried(works, now)
        decoding = now - self._last_round_at < DECODING_SECONDS
        plan = plan_step(self._trimmed(works, now), self._budget, decoding=decoding)
        for key, why in plan.held:
            log_held(key, why)
        items = tuple(self._item(share) for share in plan.shares)
        if not items and not operations:
            return None
        return Job(tuple(operations), items)

    def apply(self, job: Job, result: JobResult, now: float) -> list[Outcome]:
        """Take over what a job did: commit outputs, record slot contents, free what was closed
        meanwhile.
        """
        self._step_tokens = job.step_tokens
        if result.failure is None:
            rounds = sum(item.trial is not None for item in job.items)
            shape = job.shape(rectangular=self.info.rectangular)
            self.control.stepped(shape, rounds, result.step_seconds, now)
            if rounds:
                self._step_seconds += 0.2 * (result.step_seconds - self._step_seconds)
            judged = zip(job.items, result.judgements, strict=True)
            outcomes = [self._apply_item(item, verdict, result, now) for item, verdict in judged]
        else:
            outcomes = self._apply_failure(job, result.failure)
        self._in_flight.clear()
        for key in self._closing:
            self.residency.release(key)
        closed, self._closing = self._closing, {}
        return [outcome for outcome in outcomes if outcome and outcome.key not in closed]

    def expire(self, now: float) -> list[Outcome]:
        """Refuse the rounds whose deadline has passed."""
        return [late(waiting, now) for waiting in self._queue.expire(now)]

    def deadline_of(self, key: int) -> float | None:
        """When the waiting round of a sequence will be late; None when none waits."""
        waiting = self._queue.get(key)
        return None if waiting is None else waiting.deadline

    def next_deadline(self) -> float | None:
        """When `expire` will next have something to do."""
        return self._queue.next_deadline()

    def forget_idle(self, now: float) -> int:
        """Close sequences that no draft has touched for `idle_seconds`; returns how many."""
        oldest = now - self.limits.idle_seconds
        idle = [
            key
            for key, session in self._sessions.items()
            if session.last_used < oldest and key not in self._queue and key not in self._in_flight
        ]
        for key in idle:
            self.close(key)
        return len(idle)

    # ---- observation

    @property
    def load(self) -> Load:
        """How busy this replica is."""
        return Load(len(self._queue), len(self._sessions), self._step_tokens)

    @property
    def waiting(self) -> int:
        """Rounds that wait for a step."""
        return len(self._queue)

    @property
    def rounds_running(self) -> int:
        """Rounds in the step that is running."""
        return sum(1 for running in self._in_flight.values() if running is not None)

    @property
    def resident_sequences(self) -> int:
        """Open sequences that hold a slot."""
        return self.residency.table.owned

    @property
    def waits_for_slot(self) -> bool:
        """True when work is held back that only time can release: plan again shortly."""
        return any(not self._resident(key) for key in self._wanted())

    # ---- inside

    def _resident(self, key: int) -> bool:
        return self.residency.table.slot_of(key) is not None

    def _wanted(self) -> Iterator[int]:
        yield from self.residency.computed()
        for waiting in self._queue:
            if not self.residency.computing(waiting.key):
                yield waiting.key

    def _occupancy(self, key: int) -> Occupancy:
        if key in self._closing or key in self._in_flight or self.residency.computing(key):
            return Occupancy.PINNED
        return Occupancy.WAITING if key in self._queue else Occupancy.IDLE

    def _due(self, key: int) -> Work:
        session = self._sessions[key]
        waiting = self._queue.get(key)
        backlog = self.residency.backlog(session)
        if waiting is None:
            deadline = session.opened_at + self.limits.default_deadline_seconds
            return Work(key, backlog, 0, session.opened_at, deadline, session.weight)
        # A draft that waits agrees with all that is foretold.
        tokens = 1 + len(waiting.draft.draft_tokens) - session.foretold
        return Work(key, backlog, tokens, waiting.arrived, waiting.deadline, session.weight)

    def _carried(self, works: Sequence[Work], now: float) -> list[Work]:
        """Sequences whose devices draft: the step takes them along for one token each, where it has a round and room."""
        rounds = sum(work.round_tokens > 0 for work in works)
        if not rounds or not self.control.foretells:
            return []
        deadline = now + self.limits.default_deadline_seconds
        carried = [
            Work(key, 0, 1 + len(session.tail_tokens), now, deadline, session.weight)
            for key, session in self._sessions.items()
            if may_foretell(session, self.info)
            and key not in self._queue
            and self._resident(key)
            and not self.residency.backlog(session)
        ]
        return carried[: max(0, self._budget.step_tokens - rounds) // 2]

    def _trimmed(self, works: Sequence[Work], now: float) -> list[Work]:
        """The works with as many draft tokens in their rounds as are to be verified."""
        chunk = self._budget.prefill_tokens
        # The longest waiting first, not the most urgent: all deserve an equal share of what is
        # spare. Rounds behind a long prompt will not be in this step.
        due = sorted((w for w in works if w.round_tokens and w.backlog <= chunk), key=_arrival)
        backlog = sum(work.backlog for work in works)
        reserve = min(self._budget.prefill_reserve_tokens, backlog)
        candidates = [self._candidate(work.key) for work in due]
        chosen = self.control.choose(
            candidates,
            prefill_tokens=min(backlog, self._budget.prefill_tokens),
            max_draft_tokens=max(0, self._budget.step_tokens - reserve - len(due)),
            now=now,
        )
        trimmed = {
            work.key: replace(work, round_tokens=count + 1)
            for work, count in zip(due, chosen, strict=True)
            if work.round_tokens != count + 1
        }
        return [trimmed.get(work.key, work) for work in works]

    def _candidate(self, key: int) -> Candidate:
        session, waiting = self._sessions[key], self._queue.get(key)
        return carried_along(session) if waiting is None else candidate_of(session, waiting)

    def _item(self, share: Share) -> JobItem:
        session = self._sessions[share.key]
        slot = self.residency.table.slot_of(share.key)
        if slot is None:
            raise LookupError(f"sequence {share.key} was planned without a slot")
        start = self.residency.table.length(share.key)
        tokens = tuple(session.tokens[start : start + share.backlog_tokens])
        if not share.round_tokens:
            self._in_flight[share.key] = None
            return JobItem(share.key, slot, start, tokens, None)
        rest = self._candidate(share.key).draft
        self._in_flight[share.key] = waiting = self._queue.take(share.key)
        if waiting is not None:
            waiting.attempts += 1
        verified = share.round_tokens - 1
        draft_tokens, distributions = rest.draft_tokens[:verified], rest.distributions[:verified]
        position = len(session.tokens)
        trial = Trial(draft_tokens, distributions, session.sampling, session.seen, position)
        fed = (*tokens, session.tokens[-1], *draft_tokens)
        return JobItem(share.key, slot, start, fed, trial)

    def _apply_item(
        self, item: JobItem, judgement: Judgement | str | None, result: JobResult, now: float
    ) -> Outcome | None:
        session = self._sessions.get(item.key) or self._closing[item.key]
        waiting = self._in_flight[item.key]
        if judgement is None or item.trial is None:
            self._advance_prefix(session, item.start + len(item.tokens), now)
            return None
        if waiting is None:
            return self._foretell(session, item.trial, judgement, result.step_seconds, now)
        self._last_round_at = now
        if isinstance(judgement, str):
            self.residency.advance(session, session.cacheable_length, now, served=True)
            return Outcome(item.key, waiting.draft, Refusal(Reason.INTERNAL, judgement, 500))
        verified, seconds = len(item.trial.draft_tokens), result.step_seconds
        outcome = self._answers.judged(session, waiting, judgement, verified, seconds, now)
        self.residency.advance(session, session.cacheable_length, now, served=True)
        return outcome

    def _foretell(
        self,
        session: Session,
        trial: Trial,
        judgement: Judgement | str,
        seconds: float,
        now: float,
    ) -> Outcome | None:
        """A step carried the sequence along; its draft may have come meanwhile."""
        if isinstance(judgement, Judgement):
            session.foretell((*trial.draft_tokens[: judgement.accepted], judgement.next_token))
            self.foretold_tokens += judgement.accepted + 1
        self.residency.advance(session, session.cacheable_length, now, served=False)
        waiting = self._queue.get(session.key)
        if waiting is None:
            return None
        known = self._answers.foretold(session, waiting, seconds, now)
        if known is not None:
            self._queue.take(session.key)
        return known

    def _advance_prefix(self, session: Session, length: int, now: float) -> None:
        self.residency.advance(session, length, now, served=False)
        session.last_used = now
        for key in (session.key, *self.residency.followers(session.key)):
            waiting = self._queue.get(key)
            if waiting is not None and waiting.patient:
                waiting.deadline = now + self.limits.default_deadline_seconds

    def _apply_failure(self, job: Job, failure: JobFailure) -> list[Outcome | None]:
        """Refuse the rounds in failed slots, empty those slots, and let the other rounds wait
        again.
        """
        self.residency.reset(failure.emptied_slots, failure.broken_slots)
        outcomes: list[Outcome | None] = []
        for item in job.items:
            waiting = self._in_flight[item.key]
            if waiting is None:
                continue
            if item.slot in failure.failed_slots or waiting.attempts >= MAX_ATTEMPTS:
                sentence = "the engine failed on this round; send the draft again"
                refusal = Refusal(Reason.INTERNAL, sentence, retry_after_ms=500)
                outcomes.append(Outcome(item.key, waiting.draft, refusal))
            elif item.key in self._sessions:
                self._queue.put_back(waiting)
        return outcomes


def _arrival(work: Work) -> float:
    return work.arrived
