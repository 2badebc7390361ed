"""Everything that touches vLLM's insides, with its parts `guided` and `worker`. Import it through `launch` only.

Three seams, each covered by the contract test in `tests/vllm`:

1. `DraftScheduler`, a `scheduler_cls`: resting sequences stay out of the step, a device's draft
   becomes the request's speculative tokens, and vLLM's own step verifies it.
2. `worker.DraftProbsExtension`, a `worker_extension_cls` (so it works in every worker of a tensor-parallel
   group): hands the devices' distributions to vLLM's rejection sampler and silences vLLM's proposer.
3. `VllmRuntime`, the engine in this process, stepped by its caller.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from vllm import SamplingParams as VllmSampling
from vllm.config import StructuredOutputsConfig
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.engine.arg_utils import EngineArgs
from vllm.exceptions import VLLMClientError
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.request import RequestStatus

from sled_speculation.randomness import Purpose, uniform
from sled_verifier.engine.base import EngineError, EngineInfo
from sled_verifier.engine.gguf_vocabulary import GgufVocabulary
from sled_verifier.vllm import guided
from sled_verifier.vllm.runtime import Output, Start, StepOrder, StepReport
from sled_verifier.vllm.settings import VllmSettings
from sled_verifier.vllm.worker import DraftProbsExtension, entries

GRAMMAR_PAUSE_SECONDS = 0.002
"""Between two looks at whether a grammar is compiled, when there is nothing else to do."""


def is_ready(request: Any) -> bool:
    """True when all but the last token of a request have keys and values and the last was chosen by
    the target: what is missing is only a draft.
    """
    return bool(
        request.status == RequestStatus.RUNNING
        and request.num_output_tokens > 0
        and request.num_tokens - request.num_computed_tokens == 1
    )


class DraftScheduler(Scheduler):  # type: ignore[misc]  # vLLM is not there when types are checked
    """vLLM's scheduler, for which a sequence without a draft does not exist during a step.

    `drafts` (request id -> draft tokens, most urgent first) and `prefill_chunk_tokens` (0: no limit)
    are set before each step; the other public attributes say what it did.
    """

    running: list[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.drafts: dict[str, tuple[int, ...]] = {}
        self.prefill_chunk_tokens = 0
        self.scheduled_tokens: dict[str, int] = {}
        self.verified_tokens: dict[str, int] = {}
        self.short_of_memory = False
        self._guided = guided.GuidedDrafts()

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """One step over the drafts that are there and the prefixes that are being computed."""
        ready = {r.request_id: r for r in self.running if is_ready(r)}
        due = [ready[request_id] for request_id in self.drafts if request_id in ready]
        resting = [r for request_id, r in ready.items() if request_id not in self.drafts]
        unready = [r for r in self.running if r.request_id not in ready]
        self._guided.forget()
        for request in due:
            draft = self.drafts[request.request_id]
            request.spec_token_ids = self._guided.judgeable(
                self.structured_output_manager, request, draft
            )
        self.running = due + unready
        self.scheduler_config.long_prefill_token_threshold = self.prefill_chunk_tokens
        output = super().schedule(*args, **kwargs)
        for request in due:
            request.spec_token_ids = []
        self.running.extend(resting)
        self.scheduled_tokens = dict(output.num_scheduled_tokens)
        self.verified_tokens = {
            r.request_id: len(output.scheduled_spec_decode_tokens.get(r.request_id, ()))
            for r in due
            if r.request_id in output.num_scheduled_tokens
        }
        room = self.max_num_scheduled_tokens - output.total_num_scheduled_tokens
        self.short_of_memory = room > 0 and not all(guided.compiling(r) for r in self.waiting)
        return output

    def get_grammar_bitmask(self, scheduler_output: Any) -> Any:
        """What each place of the step may hold, for requests whose output is guided."""
        allowed = self._guided.without_forbidden(scheduler_output)
        return self._guided.with_forbidden(
            super().get_grammar_bitmask(allowed),
            allowed.scheduled_spec_decode_tokens,
            scheduler_output.scheduled_spec_decode_tokens,
        )

    def update_draft_token_ids(self, draft_token_ids: Any) -> None:
        """Drafts come from devices; what vLLM's own proposer says is nobody's draft."""

    def computing(self) -> frozenset[str]:
        """Requests that another step must run before they can take a draft."""
        return frozenset(i for i, request in self.requests.items() if not is_ready(request))


def sampling_of(start: Start, info: EngineInfo) -> VllmSampling:
    """vLLM's parameters for a sequence; devices decide when a text ends, so vLLM never does."""
    params = start.sampling
    # Each time a sequence is taken in its randomness starts anew, so the seed includes the position:
    # no position ever sees the random numbers of another.
    seed = int(uniform(params.seed, len(start.tokens), Purpose.TARGET) * 2.0**53)
    made = VllmSampling(
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        repetition_penalty=params.repetition_penalty,
        seed=None if params.greedy else seed,
        max_tokens=info.context_tokens - len(start.tokens),
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        structured_outputs=None if params.guide is None else guided.parameters(params.guide),
    )
    # Where a grammar lets a text end; named as stop tokens, they would make vLLM end it.
    made._all_stop_token_ids = set(info.end_tokens)
    return made


def engine_arguments(settings: VllmSettings) -> EngineArgs:
    """vLLM's arguments for these settings."""
    eager = settings.enforce_eager
    values: dict[str, Any] = {
        "seed": 0,
        "disable_log_stats": True,
        # Only grammars need one.
        "skip_tokenizer_init": not guided.has_tokenizer(settings.model_path),
        # Without a choice for each schema: a vLLM keeps to the first.
        "structured_outputs_config": StructuredOutputsConfig(backend="xgrammar"),
        "generation_config": "vllm",
        "enforce_eager": current_platform.is_cpu() if eager is None else eager,
        **settings.engine_arguments,
        "quantization": settings.quantization,
        "tensor_parallel_size": settings.tensor_parallel_size,
        **adapter_arguments(settings),
        "model": str(settings.model_path),
        "served_model_name": settings.model_name,
        "dtype": settings.dtype,
        "max_model_len": settings.context_tokens,
        "max_num_seqs": settings.slots,
        "max_num_batched_tokens": settings.step_tokens,
        "enable_prefix_caching": True,
        "enable_chunked_prefill": True,
        "async_scheduling": False,
        "scheduler_cls": DraftScheduler,
        "worker_extension_cls": f"{DraftProbsExtension.__module__}.{DraftProbsExtension.__name__}",
        # Some method must be named for the verification path to exist; its proposer is silenced.
        "speculative_config": {
            "method": "ngram",
            "num_speculative_tokens": max(1, settings.max_draft_tokens),
            "prompt_lookup_max": 2,
            "prompt_lookup_min": 2,
        },
    }
    return EngineArgs(**values)


def adapter_arguments(settings: VllmSettings) -> dict[str, Any]:
    """vLLM's arguments for LoRA adapters; all of them may be in one step."""
    if not settings.adapters:
        return {}
    return {
        "enable_lora": True,
        # One more than there are: on a processor vLLM 0.32 gives tokens without an adapter what lies
        # in the last place, which must stay empty.
        "max_loras": len(settings.adapters) + 1,
        "max_lora_rank": settings.max_adapter_rank,
    }


class VllmRuntime:
    """A model on vLLM. Implements `runtime.DraftingRuntime`; to be used by the thread that made it.

    Raises:
        EngineError: vLLM cannot use the model or the settings.
    """

    def __init__(self, settings: VllmSettings, vocabulary: GgufVocabulary) -> None:
        try:
            self._engine = LLMEngine.from_engine_args(engine_arguments(settings))
            self._scheduler: DraftScheduler = self._engine.engine_core.engine_core.scheduler
            self._engine.collective_rpc("sled_install")
        except Exception as error:
            # vLLM fails in its dependencies' many ways; every one means the same here.
            raise EngineError(f"vLLM cannot load the model: {error}") from error
        config = self._engine.model_config
        if vocabulary.size > config.get_vocab_size():
            raise EngineError("the vocabulary file is of another model: it has more tokens")
        self._vocabulary = vocabulary
        self._adapters = {
            name: LoRARequest(name, number, str(folder))
            for number, (name, folder) in enumerate(sorted(settings.adapters.items()), start=1)
        }
        self._chunk = settings.prefill_chunk_tokens
        self._ids: dict[int, str] = {}
        self._keys: dict[str, int] = {}
        self._names: dict[str, int] = {}
        self._started = 0
        self._unguidable: list[int] = []
        self._table_set = False
        exact = config.dtype == torch.float32 and config.quantization is None
        self.info = EngineInfo(
            model_name=settings.model_name,
            engine="vllm",
            vocab_size=vocabulary.size,
            context_tokens=settings.context_tokens,
            slots=settings.slots,
            max_step_tokens=settings.step_tokens,
            tokenizer_fingerprint=vocabulary.fingerprint,
            end_tokens=vocabulary.end_tokens,
            exactness="fp32" if exact else "approximate",
            guides=guided.prepare(self._scheduler.structured_output_manager),
            # A processor's kernels are made for the number of rows, and a GPU's graphs are captured for some numbers.
            even_steps=True,
        )

    def run(self, order: StepOrder) -> StepReport:
        """See `DraftingRuntime.run`."""
        started = time.monotonic()
        try:
            self._unguidable = []
            self._forget(order.stop)
            refused = tuple((s.key, why) for s in order.start if (why := self._take_in(s)))
            scheduler = self._scheduler
            scheduler.verified_tokens, scheduler.scheduled_tokens = {}, {}
            scheduler.drafts = {self._ids[t.key]: t.draft_tokens for t in order.trials}
            scheduler.prefill_chunk_tokens = self._chunk if order.decoding else 0
            self._set_table(order)
            if not order.trials and not scheduler.computing():
                seconds, gone = time.monotonic() - started, tuple(self._unguidable)
                return StepReport((), (), frozenset(), seconds, refused=refused, unguidable=gone)
            produced = self._step()
        except Exception as error:
            # Whatever failed in a step leaves vLLM's books wrong; nothing can be saved but the texts.
            raise EngineError(f"vLLM failed: {type(error).__name__}: {error}") from error
        outputs = tuple(self._output(one) for one in produced)
        return StepReport(
            outputs=outputs,
            ran=tuple(
                (self._keys[i], count)
                for i, count in scheduler.scheduled_tokens.items()
                if i in self._keys
            ),
            computing=frozenset(self._keys[i] for i in scheduler.computing() if i in self._keys),
            seconds=time.monotonic() - started,
            cached_tokens=sum(
                one.num_cached_tokens or 0
                for one, output in zip(produced, outputs, strict=True)
                if output.verified is None
            ),
            short_of_memory=scheduler.short_of_memory,
            refused=refused,
            unguidable=tuple(self._unguidable),
        )

    def tokenizer_gguf(self) -> bytes:
        """See `DraftingRuntime.tokenizer_gguf`."""
        return self._vocabulary.gguf

    def close(self) -> None:
        """See `DraftingRuntime.close`."""
        self._engine.engine_core.shutdown()
        cleanup_dist_env_and_memory()

    def _take_in(self, start: Start) -> str | None:
        self._started += 1
        if start.adapter and start.adapter not in self._adapters:
            return f"there is no adapter '{start.adapter}'"
        try:
            sampling = sampling_of(start, self.info)
        except VLLMClientError as error:
            return str(error)
        manager = self._scheduler.structured_output_manager
        if start.sampling.guide is not None and not guided.possible(manager, sampling):
            self._unguidable.append(start.key)
            return None
        name = f"{start.key}.{self._started}"
        prompt = {"prompt_token_ids": list(start.tokens)}
        try:
            request_id = self._engine.add_request(
                name,
                prompt,
                sampling,
                lora_request=self._adapters.get(start.adapter),
            )
        except (ValueError, VLLMClientError) as error:
            return str(error)
        if start.sampling.guide is not None and start.output_tokens:
            request = self._scheduler.requests[request_id]
            guided.replay(manager, request, start.tokens[-start.output_tokens :])
        self._ids[start.key] = request_id
        self._keys[request_id] = start.key
        self._names[name] = start.key
        return None

    def _step(self) -> list[Any]:
        """One step; what it produced of sequences that are still wanted."""
        produced = [one for one in self._engine.step() if one.request_id in self._names]
        if not self._scheduler.scheduled_tokens:
            # All that is here waits for its grammar, which is compiled by other threads.
            time.sleep(GRAMMAR_PAUSE_SECONDS)
        kept = []
        for one in produced:
            if guided.failed(one):
                self._unguidable.append(self._names[one.request_id])
                self._lost(one)
            else:
                kept.append(one)
        return kept

    def _forget(self, keys: tuple[int, ...]) -> None:
        gone = [self._ids.pop(key) for key in keys if key in self._ids]
        if not gone:
            return
        for request_id in gone:
            key = self._keys.pop(request_id)
            self._names = {name: k for name, k in self._names.items() if k != key}
        self._engine.abort_request(gone, internal=True)

    def _set_table(self, order: StepOrder) -> None:
        table = {
            self._ids[t.key]: tuple(entries(d) for d in t.distributions)
            for t in order.trials
            if t.distributions
        }
        if table or self._table_set:
            self._engine.collective_rpc("sled_set_table", args=(table,))
            self._table_set = bool(table)

    def _lost(self, one: Any) -> None:
        """vLLM has given a sequence up."""
        del self._keys[self._ids.pop(self._names.pop(one.request_id))]

    def _output(self, one: Any) -> Output:
        key = self._names[one.request_id]
        request_id = self._ids[key]
        tokens = tuple(one.outputs[0].token_ids)
        if one.finished:
            self._lost(one)
        verified = self._scheduler.verified_tokens.get(request_id)
        return Output(key, tokens, verified, ended=bool(one.finished))
