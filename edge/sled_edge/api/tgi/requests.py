"""What TGI clients may send, typed, with TGI's own defaults and ranges.

Unknown fields are ignored; nulls are the same as leaving a field out.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from sled_edge.api.ask import Wishes
from sled_edge.api.unsupported import Unsupported

DEFAULT_MAX_NEW_TOKENS = 100
MAX_STOP_SEQUENCES = 4

PARAMETERS_UNSUPPORTED = Unsupported(
    {
        "best_of": (None, 1),
        "typical_p": (None, 1, 1.0),
        "watermark": (None, False),
        "decoder_input_details": (None, False),
        "top_n_tokens": (None, 0),
        "grammar": (None,),
        "frequency_penalty": (None, 0, 0.0),
        "adapter_id": (None,),
    },
    {"frequency_penalty": "The target offers repetition_penalty instead."},
)


def _never_null(value: object) -> object:
    return () if value is None else tuple(value) if isinstance(value, list) else value


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class Parameters(_Body):
    """The `parameters` of a request."""

    do_sample: bool | None = None
    max_new_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, gt=0, le=10)
    top_k: int | None = Field(None, ge=1, le=1_000_000)
    top_p: float | None = Field(None, gt=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    seed: int | None = Field(None, ge=0, lt=2**64)
    stop: Annotated[tuple[str, ...], BeforeValidator(_never_null)] = Field(
        (), max_length=MAX_STOP_SEQUENCES
    )
    truncate: int | None = Field(None, ge=1)
    return_full_text: bool | None = None
    details: bool | None = None

    @property
    def samples(self) -> bool:
        """TGI's rule: asked for, or implied by any sampling parameter that has an effect."""
        return bool(self.do_sample) or any(
            (
                self.temperature not in (None, 1),
                self.top_k is not None,
                self.top_p not in (None, 1),
            )
        )

    def wishes(self) -> Wishes:
        """The request without its dialect; TGI leaves a stop sequence in the text."""
        return Wishes(
            max_tokens=self.max_new_tokens,
            max_tokens_param="max_new_tokens",
            temperature=(self.temperature or 1.0) if self.samples else 0.0,
            top_p=self.top_p if self.samples else None,
            top_k=self.top_k if self.samples else None,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
            stops=self.stop,
            keep_stop=True,
        )


class GenerateRequest(_Body):
    """POST /generate, /generate_stream and /."""

    inputs: str = Field(min_length=1)
    parameters: Parameters | None = None
    stream: bool | None = None

    @property
    def options(self) -> Parameters:
        """The parameters, or TGI's defaults."""
        return self.parameters or Parameters.model_validate({})
