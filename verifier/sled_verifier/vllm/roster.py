"""The vLLM backend's whole state and its transitions: order a step, take over its report. Must not
run anything or read a clock.

The counterpart of `scheduler.Scheduler` for a runtime that batches by itself: vLLM decides what fits
a step, this decides who is in vLLM, whose draft goes into the next step, and what its outputs mean.
Every method takes the time as `now`. One caller at a time; between `order` and the `apply` of its
report everything but `order` may be called.
"""

from __future__ import annotations

from sled_speculation.acceptance import Judgement
from sled_speculation.step_cost import StepShape
from sled_verifier.admission import check_draft, check_open
from sled_verifier.answers import Answers, Outcome, late
from sled_verifier.batcher import Work, urgency
from sled_verifier.engine.base import EngineInfo
from sled_verifier.foretold import candidate_of, carried_along, may_foretell
from sled_verifier.gathering import Hold, hold_for
from sled_verifier.limits import Limits
from sled_verifier.load_control import Candidate, LoadControl
from sled_verifier.queue import Round, RoundQueue
from sled_verifier.refusal import Reason, Refusal
from sled_verifier.rounds import Admission, DraftRequest, Load, OpenRequest
from sled_verifier.rounds import RoundVerdict as Verdict
from sled_verifier.scheduler import DECODING_SECONDS
from sled_verifier.session import Session
from sled_verifier.vllm.runtime import Output, Start, StepOrder, StepReport, Trial
from sled_verifier.vllm.sampling import check_sampling, guide_refusal
from sled_verifier.vllm.seats import Seats
from sled_verifier.vllm.sequence import Sequence


class Roster:
    """Sequences, waiting rounds and seats of one runtime."""

    def __init__(
        self, info: EngineInfo, limits: Limits, control: LoadControl | None = None
    ) -> None:
        self.info = info
        self.limits = limits
        self.control = control or LoadControl(limits.max_draft_tokens)
        self.control.serves(info)
        self._answers = Answers(self.control, lambda: self.load)
        self.seats = Seats(info.slots)
        self._sequences: dict[int, Sequence] = {}
        self._queue = RoundQueue(limits.max_queue)
        self._running: dict[int, Round] = {}
        self._carried: set[int] = set()
        """Sequences in the running step without a round, for one more foretold token."""
        self.foretold_tokens = 0
        """Tokens that were foretold in steps of others, since the start."""
        self._leaving: list[int] = []
        self._next_key = 1
        self._last_round_at = float("-inf")
        self._step_tokens = 0
        self._short_of_memory = False
        self._step_seconds = 0.0

    # ---- what devices ask for

    def open(self, request: OpenRequest, now: float) -> Admission:
        """Admit a sequence; its prompt is computed from the next step on.

        Raises:
            Refusal: INVALID_SAMPLING for what vLLM cannot do with drafts, and see
                `admission.check_open`.
        """
        check_sampling(request.sampling)
        check_open(request, self.info, self.limits, len(self._sequences))
        session = Session(self._next_key, request, now)
        self._next_key += 1
        self._sequences[session.key] = Sequence(session)
        self.control.opened(session.key, request)
        return Admission(session.key, 0)

    def submit(self, key: int, draft: DraftRequest, now: float) -> Outcome | Verdict | None:
        """Queue one round (None); or answer it at once: with an Outcome when the target's choice is
        known already, with the old verdict when this very draft was answered before.

        Raises:
            Refusal: UNKNOWN_SEQUENCE, INVALID_SAMPLING, ROUND_IN_FLIGHT, STALE_PREFIX, QUEUE_FULL, and see
                `admission.check_draft`.
        """
        sequence = self._sequences.get(key)
        if sequence is None:
            raise Refusal(Reason.UNKNOWN_SEQUENCE, "no such sequence here; open it again")
        if sequence.unguidable:
            raise guide_refusal()
        if key in self._queue or key in self._running:
            raise Refusal(
                Reason.ROUND_IN_FLIGHT, "the sequence's previous draft has no verdict yet"
            )
        answered = sequence.session.replay(draft)
        if answered is not None:
            return answered
        check_draft(sequence.session, draft, self.info, self.limits)
        seconds = draft.deadline_seconds or self.limits.default_deadline_seconds
        waiting = Round(key, draft, now, now + seconds, draft.deadline_seconds is None)
        sequence.session.last_used = now
        sequence.session.rhythm.heard(now, ahead=draft.ahead)
        known = self._answers.foretold(sequence.session, waiting, 0.0, now)
        if known is not None:
            return self._answered(known, now)
        self._queue.add(waiting, retry_after_ms=200)
        self.seats.mark(key, busy=True, now=now)
        return None

    def withdraw(self, key: int, now: float) -> None:
        """Nobody waits for this sequence's round any more; one that is running completes
        unheard.
        """
        if self._queue.take(key) is not None:
            self.seats.mark(key, busy=False, now=now)

    def close(self, key: int) -> None:
        """End a sequence and free everything it holds; unknown keys are ignored."""
        if self._sequences.pop(key, None) is None:
            return
        self.control.closed(key)
        self._queue.take(key)
        if self.seats.leave(key):
            self._leaving.append(key)

    # ---- one step

    def hold(self, now: float) -> Hold | None:
        """Whether to start the next step later, see `gathering`."""
        if not self._queue:
            return None
        due = (
            sequence.session.rhythm.due_at(now)
            for key, sequence in self._sequences.items()
            if self.seats.ready(key)
        )
        waiting = len(self._queue)
        return hold_for(waiting, (at for at in due if at is not None), self._step_seconds, now)

    @property
    def waiting(self) -> int:
        """Rounds that wait for a step."""
        return len(self._queue)

    def order(self, now: float) -> StepOrder | None:
        """The next step, or None when there is nothing to run. It must be run and its report applied
        before the next order.
        """
        self._leaving.extend(self.seats.weary(now))
        if self._short_of_memory:
            self._short_of_memory = False
            self._leave(self.seats.relieve())
        starts = self._seat_waiting(now)
        trials = self._trials(now)
        stops, self._leaving = tuple(self._leaving), []
        if not stops and not starts and not trials and not self.seats.computing:
            return None
        decoding = bool(trials) or now - self._last_round_at < DECODING_SECONDS
        return StepOrder(stops, starts, trials, decoding)

    def apply(self, order: StepOrder, report: StepReport, now: float) -> list[Outcome]:
        """Take over what a step did: commit outputs, keep what was foretold, let the rest wait."""
        self._step_tokens = sum(tokens for _, tokens in report.ran)
        self._observe(order, report, now)
        self._short_of_memory = report.short_of_memory
        outcomes = [self._refuse(key, why) for key, why in report.refused]
        outcomes += [self._give_up(key) for key in report.unguidable]
        for output in report.outputs:
            outcomes.append(self._take_output(output, report, now))
        for key, tokens in report.ran:
            waiting = self._queue.get(key)
            if tokens and waiting is not None and waiting.patient:
                waiting.deadline = now + self.limits.default_deadline_seconds
        for key, unanswered in self._running.items():
            if key in self._sequences:
                self._queue.put_back(unanswered)
        self._running.clear()
        self._carried.clear()
        for trial in order.trials:
            if trial.key in report.computing:
                self.seats.set_ready(trial.key, ready=False)
        return [outcome for outcome in outcomes if outcome is not None]

    def expire(self, now: float) -> list[Outcome]:
        """Refuse the rounds whose deadline has passed."""
        expired = self._queue.expire(now)
        for waiting in expired:
            self.seats.mark(waiting.key, busy=False, now=now)
        return [late(waiting, now) for waiting in expired]

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
            for key, sequence in self._sequences.items()
            if sequence.session.last_used < oldest
            and key not in self._queue
            and key not in self._running
        ]
        for key in idle:
            self.close(key)
        return len(idle)

    # ---- observation

    @property
    def load(self) -> Load:
        """How busy this replica is."""
        return Load(len(self._queue), len(self._sequences), self._step_tokens)

    @property
    def rounds_running(self) -> int:
        """Rounds in the step that is running."""
        return len(self._running)

    @property
    def waits_for_seat(self) -> bool:
        """True when a round is held back that only time can help: order again shortly."""
        return any(waiting.key not in self.seats for waiting in self._queue)

    # ---- inside

    def _seat_waiting(self, now: float) -> tuple[Start, ...]:
        """Seat what has a round first, and prompts without one only where a seat is free."""
        starts = []
        for waiting in self._by_urgency():
            if waiting.key in self.seats:
                continue
            room, evicted = self.seats.free_or_evict(now)
            if not room:
                break
            self._leave(evicted)
            starts.append(self._start(waiting.key, now))
        for key, sequence in self._sequences.items():
            if len(self.seats) == self.seats.count:
                break
            if sequence.wanted and key not in self.seats:
                starts.append(self._start(key, now))
        return tuple(starts)

    def _start(self, key: int, now: float) -> Start:
        sequence = self._sequences[key]
        sequence.wanted = False
        self.seats.take(key, now)
        self.seats.mark(key, busy=key in self._queue, now=now)
        session = sequence.session
        output_tokens = len(session.tokens) - session.prompt_length
        return Start(key, session.tokens[:], session.sampling, session.adapter, output_tokens)

    def _by_urgency(self) -> list[Round]:
        return sorted(self._queue, key=self._urgency)

    def _urgency(self, waiting: Round) -> float:
        weight = self._sequences[waiting.key].session.weight
        return urgency(Work(waiting.key, 0, 1, waiting.arrived, waiting.deadline, weight))

    def _trials(self, now: float) -> tuple[Trial, ...]:
        due = [waiting for waiting in self._by_urgency() if self.seats.ready(waiting.key)]
        if not due:
            return ()
        chunk = self.limits.prefill_chunk_tokens if self.seats.computing else 0
        step_tokens = min(self.limits.step_tokens, self.info.max_step_tokens)
        reserve = min(chunk, step_tokens // 4)
        room = max(0, step_tokens - reserve - len(due))
        carried = self._idle()[: room // 2]
        candidates = [candidate_of(self._sequences[w.key].session, w) for w in due] + carried
        verified = self.control.choose(
            candidates,
            prefill_tokens=chunk,
            max_draft_tokens=room - len(carried),
            now=now,
        )
        for waiting in due:
            self._queue.take(waiting.key)
            self._running[waiting.key] = waiting
        self._carried = {candidate.key for candidate in carried}
        return tuple(_trial(*pair) for pair in zip(candidates, verified, strict=True))

    def _idle(self) -> list[Candidate]:
        """Those that a step can carry along while their devices draft."""
        if not self.control.foretells:
            return []
        here = (s.session for key, s in self._sequences.items() if self.seats.ready(key))
        return [
            carried_along(session)
            for session in here
            if session.key not in self._queue and may_foretell(session, self.info)
        ]

    def _observe(self, order: StepOrder, report: StepReport, now: float) -> None:
        if not report.ran:
            return
        if order.trials:
            self._step_seconds += 0.2 * (report.seconds - self._step_seconds)
        context = sum(
            self._sequences[key].session.cacheable_length
            for key, _ in report.ran
            if key in self._sequences
        )
        shape = StepShape(self._step_tokens, len(report.ran), context)
        self.control.stepped(shape, len(order.trials), report.seconds, now)

    def _leave(self, key: int | None) -> None:
        if key is not None:
            self._leaving.append(key)

    def _take_output(self, output: Output, report: StepReport, now: float) -> Outcome | None:
        key = output.key
        sequence = self._sequences.get(key)
        if output.ended:
            self.seats.leave(key)
        if sequence is None:
            return None
        self.seats.set_ready(key, ready=True)
        running = self._running.pop(key, None)
        if output.verified is None or key in self._carried:
            # Not the answer to a draft: the step carried the sequence along, or the runtime had to compute the prefix
            # (again) first.
            self.foretold_tokens += len(output.tokens) if output.verified is not None else 0
            sequence.session.foretell(output.tokens)
            waiting = running or self._queue.take(key)
            if waiting is None:
                return None
            known = self._answers.foretold(sequence.session, waiting, report.seconds, now)
            if known is None:
                self._queue.put_back(waiting)
                return None
            return self._answered(known, now)
        if running is None:
            raise LookupError(f"a verdict for sequence {key}, of which no round is running")
        accepted = len(output.tokens) - 1
        judgement = Judgement(accepted, output.tokens[-1], bonus=accepted == output.verified)
        session, verified = sequence.session, output.verified
        answer = self._answers.judged(session, running, judgement, verified, report.seconds, now)
        return self._answered(answer, now)

    def _answered(self, outcome: Outcome, now: float) -> Outcome:
        self._last_round_at = now
        self.seats.mark(outcome.key, busy=False, now=now)
        return outcome

    def _give_up(self, key: int) -> Outcome | None:
        """The runtime cannot guide the sequence. It stays, without a seat, until the device has heard of
        it: to open it again would be of no use.
        """
        self.seats.leave(key)
        sequence = self._sequences.get(key)
        if sequence is None:
            return None
        sequence.unguidable = True
        waiting = self._running.pop(key, None) or self._queue.take(key)
        return None if waiting is None else Outcome(key, waiting.draft, guide_refusal())

    def _refuse(self, key: int, why: str) -> Outcome | None:
        """The runtime would not take the sequence in: nothing about it can be served."""
        self.seats.leave(key)
        self._sequences.pop(key, None)
        waiting = self._running.pop(key, None) or self._queue.take(key)
        if waiting is None:
            return None
        sentence = f"the engine cannot take this sequence: {why}"
        return Outcome(key, waiting.draft, Refusal(Reason.UNKNOWN_SEQUENCE, sentence))


def _trial(candidate: Candidate, verified: int) -> Trial:
    draft = candidate.draft
    return Trial(candidate.key, draft.draft_tokens[:verified], draft.distributions[:verified])
