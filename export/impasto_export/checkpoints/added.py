"""Special tokens, and tokens that a fine-tune added: what a tokenizer's folder states beside its vocabulary.

They are read as transformers does: from tokenizer_config.json, special_tokens_map.json and added_tokens.json. If the
first lists all tokens, the others are ignored.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from impasto_export.architecture import Json, read_json
from impasto_export.errors import CheckpointError

# CLIP's own tokens, for a checkpoint whose tokenizer_config.json leaves them out.
CLIP_TOKENS = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
# If tokenizer_config.json has this list, the older files are ignored.
LISTED = "added_tokens_decoder"
FLAGS = ("lstrip", "rstrip", "normalized", "single_word", "special")
SHOWN = 3
# Lists of special tokens without a role: of transformers 5, and of earlier ones.
EXTRAS = ("extra_special_tokens", "additional_special_tokens")


def config_of(folder: Path) -> Json:
    """tokenizer_config.json, overridden by special_tokens_map.json, as transformers reads them."""
    config, named = read_json(folder / "tokenizer_config.json"), folder / "special_tokens_map.json"
    return config if LISTED in config or not named.is_file() else {**config, **read_json(named)}


def tokens(folder: Path, config: Json) -> list[tuple[int | None, AddedToken]]:
    """The tokens that the checkpoint added, in the order of their ids: those of tokenizer_config.json, else of
    added_tokens.json; then special ones without a role, whose ids aren't stated."""
    lists = [config.get(key) or () for key in EXTRAS]
    extras = [token for held in lists for token in (held.values() if isinstance(held, dict) else held)]
    special = {content(token): _token(folder, token, True) for token in extras}
    path = folder / "added_tokens.json"
    if LISTED in config:
        listed = config[LISTED]
        found = {id: _token(folder, token, False) for id, token in listed.items()} if isinstance(listed, dict) else {}
    else:
        named = read_json(path) if path.is_file() else {}
        known = {*special, *(content(config.get(key) or default) for key, default in CLIP_TOKENS.items())}
        found = {id: _token(folder, token, token in known) for token, id in named.items()}
    try:
        stated = sorted(((int(id), token) for id, token in found.items()), key=itemgetter(0))
    except (TypeError, ValueError):
        raise CheckpointError(
            f"{folder}: the ids of its added tokens are {[*found][:SHOWN]}; numbers are expected"
        ) from None
    contents = {token.content for _, token in stated}
    return [*stated, *((None, token) for text, token in special.items() if text not in contents)]


def _token(folder: Path, token: Any, special: bool) -> AddedToken:
    """The token, given as its text or as an object with it. Raises CheckpointError for anything else."""
    flags = {key: token[key] for key in FLAGS if key in token} if isinstance(token, dict) else {}
    if not isinstance(token, (str, dict)) or not all(isinstance(value, bool) for value in flags.values()):
        raise CheckpointError(f"{folder}: an added token is {str(token)[:80]}; its text and flags are expected")
    return AddedToken(content(token), **{"special": special, "normalized": not special, **flags})


def extended(
    folder: Path, data: bytes, brought: Sequence[tuple[int | None, AddedToken]], roles: Collection[str]
) -> tuple[bytes, tuple[str, ...]]:
    """tokenizer.json with these tokens added, and those of them without a role. A token with a role is never split, nor
    part of a word: Stable Diffusion 2's "!" is its padding wherever it stands.

    Raises CheckpointError for a token that would get another id than the stated one.
    """
    tokenizer = opened(folder, data)
    held = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    known = {token.content for _, token in brought} | held
    special = [AddedToken(role, special=True, normalized=False) for role in roles if role not in known]
    missing = [token for _, token in brought if token.content not in held]
    missing += [token for token in special if tokenizer.token_to_id(token.content) is not None]
    for token in missing:
        tokenizer.add_tokens([token])
    for id, token in brought:
        got = tokenizer.token_to_id(token.content)
        if id not in (None, got):
            problem = f"the token {token.content!r} has the id {got} in its vocabulary, but {id} is stated"
            raise CheckpointError(f"{folder}: {problem}; get all tokenizer files from the same version")
    own = {token.content for token in tokenizer.get_added_tokens_decoder().values()} - {*roles, *CLIP_TOKENS.values()}
    return tokenizer.to_str().encode() if missing else data, tuple(sorted(own))


def opened(folder: Path, data: bytes) -> Tokenizer:
    """The tokenizer. Raises CheckpointError when `data` is not a tokenizer.json."""
    try:
        return Tokenizer.from_buffer(data)
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(f"{folder / 'tokenizer.json'}: not a tokenizer: {error}") from None


def content(token: str | Json) -> str:
    """A special token's text; it is saved as that, or as an object with it."""
    return str(token.get("content") if isinstance(token, dict) else token)
