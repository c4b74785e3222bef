"""The manifest of bundles that take prompts."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import model_validator

from impasto_server.bundle import Manifest, TokenizerFacts


class WordedManifest(Manifest):
    """The manifest of a family whose lanes have prompts: one text encoder, or two that read the same words."""

    tokenizer: TokenizerFacts
    tokenizer_2: TokenizerFacts | None = None
    force_zeros_for_empty_prompt: bool = False

    @property
    def text_encoders(self) -> Mapping[str, TokenizerFacts]:
        second = {} if self.tokenizer_2 is None else {"text_encoder_2": self.tokenizer_2}
        return {"text_encoder": self.tokenizer, **second}

    def dimensions(self, width: int, height: int) -> Mapping[str, int]:
        return {**super().dimensions(width, height), "tokens": self.tokenizer.max_length}

    @model_validator(mode="after")
    def _has_a_tokenizer_for_each_text_encoder(self) -> WordedManifest:
        if ("text_encoder_2" in self.graphs) != (self.tokenizer_2 is not None):
            raise ValueError("graph text_encoder_2 and tokenizer_2 belong together, but one of them is missing")
        return self
