"""What tests of the vLLM backend need: model folders, and a runtime that many tests share. Imports vLLM only inside functions."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sled_verifier.engine.base import EngineInfo
from sled_verifier.engine.vocabulary import byte_vocabulary_gguf
from sled_verifier.limits import Limits
from sled_verifier.vllm.backend import VllmBackend
from sled_verifier.vllm.launch import load_runtime
from sled_verifier.vllm.runtime import DraftingRuntime, StepOrder, StepReport
from sled_verifier.vllm.settings import VllmSettings

_CONVERT = """
import json, sys, torch
from transformers import AutoModelForCausalLM
source, folder = sys.argv[1:]
import os
model = AutoModelForCausalLM.from_pretrained(
    os.path.dirname(source), gguf_file=os.path.basename(source), dtype=torch.float32)
model.hf_quantizer = None
model.is_quantized = False
if hasattr(model.config, "quantization_config"):
    del model.config.quantization_config
model.save_pretrained(folder)
"""

_RANDOM = """
import sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
torch.manual_seed(7)
config = LlamaConfig(vocab_size=256, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=1, head_dim=64, max_position_embeddings=2048,
    initializer_range=0.3, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2)
LlamaForCausalLM(config).to(torch.float32).save_pretrained(sys.argv[1])
"""

_ADAPTER = """
import json, sys, torch
from safetensors.torch import save_file
folder, seed = sys.argv[1], int(sys.argv[2])
torch.manual_seed(seed)
sizes = {"self_attn.q_proj": (128, 128), "self_attn.v_proj": (128, 64), "mlp.down_proj": (256, 128)}
tensors = {}
for layer in range(2):
    for module, (fed, given) in sizes.items():
        name = f"base_model.model.model.layers.{layer}.{module}"
        tensors[f"{name}.lora_A.weight"] = torch.randn(8, fed) * 0.3
        tensors[f"{name}.lora_B.weight"] = torch.randn(given, 8) * 0.3
save_file(tensors, f"{folder}/adapter_model.safetensors")
with open(f"{folder}/adapter_config.json", "w") as file:
    json.dump({"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "bias": "none",
        "target_modules": [module.split(".")[1] for module in sizes], "base_model_name_or_path": "random"}, file)
"""

_TOKENIZER = """
import sys
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
others = [byte for byte in range(256) if byte not in printed]
words = {chr(byte): byte for byte in printed}
words.update((chr(256 + place), byte) for place, byte in enumerate(others) if byte != 2)
tokenizer = Tokenizer(models.BPE(vocab={**words, "<end>": 2}, merges=[]))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
tokenizer.decoder = decoders.ByteLevel()
PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(sys.argv[1])
"""

_PLAIN = """
import json, os, sys
os.environ.update(VLLM_LOGGING_LEVEL="ERROR", HF_HUB_OFFLINE="1", VLLM_CPU_KVCACHE_SPACE="1")
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest
from vllm.sampling_params import StructuredOutputsParams
request = json.load(sys.stdin)
adapters, schemas = request["adapters"], request["schemas"]
more = {"enable_lora": True, "max_loras": len(set(adapters)), "max_lora_rank": 8} if any(adapters) else {}
llm = LLM(request["model"], dtype="float32", enforce_eager=True, max_model_len=1024,
          skip_tokenizer_init=not any(schemas), generation_config="vllm", **more)
numbers = {folder: number for number, folder in enumerate(sorted(set(adapters)), start=1)}
out = llm.generate([{"prompt_token_ids": p} for p in request["prompts"]], [SamplingParams(
    temperature=0, max_tokens=request["tokens"], ignore_eos=not schema, detokenize=False,
    structured_outputs=StructuredOutputsParams(json=schema) if schema else None,
    repetition_penalty=penalty) for penalty, schema in zip(request["penalties"], schemas)], use_tqdm=False,
    lora_request=[LoRARequest(a, numbers[a], a) if a else None for a in adapters])
sys.stderr.flush()
print("RESULT" + json.dumps([list(o.outputs[0].token_ids) for o in out]), flush=True)
os._exit(0)
"""


def hugging_face_folder(gguf: Path, cache: Path) -> Path:
    """A fp32 model folder made from a GGUF file, once; `cache` keeps it."""
    folder = cache / f"{gguf.parent.name[:16]}-{gguf.stem}"
    if not (folder / "done").exists():
        command = [sys.executable, "-c", _CONVERT, str(gguf), str(folder)]
        subprocess.run(command, check=True, timeout=600)
        (folder / "done").touch()
    return folder


def random_model(folder: Path) -> tuple[Path, Path]:
    """A model of two layers with random weights over 256 tokens, and its vocabulary file."""
    subprocess.run([sys.executable, "-c", _RANDOM, str(folder)], check=True, timeout=300)
    vocabulary = folder / "vocabulary.gguf"
    vocabulary.write_bytes(byte_vocabulary_gguf(256))
    return folder, vocabulary


def add_byte_tokenizer(folder: Path) -> None:
    """Give `random_model` a tokenizer: token i is byte i, but 2 ends the text."""
    subprocess.run([sys.executable, "-c", _TOKENIZER, str(folder)], check=True, timeout=300)
    (folder / "vocabulary.gguf").write_bytes(byte_vocabulary_gguf(256, end_token=2))


def random_adapter(folder: Path, seed: int) -> Path:
    """A LoRA adapter of rank 8 with random weights for `random_model`."""
    folder.mkdir()
    subprocess.run(
        [sys.executable, "-c", _ADAPTER, str(folder), str(seed)], check=True, timeout=300
    )
    return folder


def plain_greedy(
    model: Path,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    penalties: Sequence[float] | None = None,
    adapters: Sequence[Path | None] | None = None,
    schemas: Sequence[str | None] | None = None,
) -> list[list[int]]:
    """What vLLM itself writes, without any of our code in its process. `penalties` are each
    prompt's repetition penalty, `adapters` its LoRA adapter, `schemas` the JSON schema of its output
    (default none); a text with a schema may end by itself, with an end token.
    """
    request: dict[str, Any] = {"model": str(model), "tokens": tokens}
    request["prompts"] = [list(prompt) for prompt in prompts]
    request["penalties"] = list(penalties or [1.0] * len(prompts))
    request["adapters"] = [str(folder or "") for folder in adapters or [None] * len(prompts)]
    request["schemas"] = list(schemas or [None] * len(prompts))
    ran = subprocess.run(
        [sys.executable, "-c", _PLAIN],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=600,
    )
    lines = [line for line in ran.stdout.splitlines() if line.startswith("RESULT")]
    if not lines:
        raise RuntimeError(f"plain vLLM failed:\n{ran.stderr[-3000:]}")
    texts: list[list[int]] = json.loads(lines[0].removeprefix("RESULT"))
    return texts


class LentRuntime:
    """A loaded runtime that outlives the backends that use it one after another."""

    def __init__(self, runtime: DraftingRuntime) -> None:
        self.runtime = runtime
        self.steps = 0
        self.before_step: Callable[[StepOrder], None] = lambda order: None
        self.orders: list[StepOrder] = []
        self._keys: set[int] = set()

    @property
    def info(self) -> EngineInfo:
        return self.runtime.info

    def run(self, order: StepOrder) -> StepReport:
        self.before_step(order)
        self.orders.append(order)
        self._keys |= {start.key for start in order.start}
        report = self.runtime.run(order)
        self.steps += bool(report.ran)
        return report

    def tokenizer_gguf(self) -> bytes:
        return self.runtime.tokenizer_gguf()

    def close(self) -> None:
        """Only gives up the sequences."""
        self.runtime.run(StepOrder(stop=tuple(self._keys)))


class LentThread(ThreadPoolExecutor):
    """A thread that `shutdown` does not end; `end` does."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        pass

    def end(self) -> None:
        super().shutdown()


@dataclass(slots=True)
class Lab:
    """A loaded model with the thread that owns it."""

    runtime: DraftingRuntime
    thread: LentThread
    last: LentRuntime | None = None

    @classmethod
    def load(cls, make: Callable[[], DraftingRuntime]) -> Lab:
        thread = LentThread(max_workers=1)
        return cls(thread.submit(make).result(), thread)

    @asynccontextmanager
    async def backend(
        self, limits: Limits | None = None, **options: Any
    ) -> AsyncIterator[VllmBackend]:
        """A fresh backend over the shared runtime; `last` is what it saw."""
        self.last = LentRuntime(self.runtime)
        limits = limits or Limits(max_draft_tokens=8)
        async with VllmBackend(self.last, self.thread, limits, **options) as backend:
            yield backend

    def close(self) -> None:
        self.thread.submit(self.runtime.close).result()
        self.thread.end()


@contextmanager
def loaded(settings: VllmSettings) -> Iterator[Lab]:
    """A lab with this model, closed at the end."""
    lab = Lab.load(lambda: load_runtime(settings))
    yield lab
    lab.close()


def settings_of_random_model(model: tuple[Path, Path], slots: int) -> VllmSettings:
    """`random_model` in fp32, with little of everything."""
    return VllmSettings(
        model_path=model[0],
        vocabulary_path=model[1],
        model_name="random",
        dtype="float32",
        context_tokens=256,
        slots=slots,
        step_tokens=256,
        prefill_chunk_tokens=32,
        max_draft_tokens=8,
        kv_cache_gib=1,
    )
