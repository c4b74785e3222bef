"""CLIPs by one interface: transformers' folders, open_clip's state dicts, our own; what they don't know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel

from impasto_fit.errors import CheckpointError, WordsError
from impasto_fit.text import clip as clips
from impasto_fit.text import open_clip, texture
from impasto_fit.text.templates import TEMPLATES, filled
from impasto_fit.text.texture import TextureClip
from tests.unit.fit.text.towers import MINI, seeing

WIDTH, TEXT, JOINT, LAYERS, WORDS, LONG = 64, 128, 32, 2, 40, 8


class Block(nn.Module):
    """A transformer's block under open_clip's names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, width // 64, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class Transformer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width) for _ in range(LAYERS))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Visual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, 8, 8, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn(17, WIDTH))
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = Transformer(WIDTH)
        self.proj = nn.Parameter(torch.randn(WIDTH, JOINT))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        out: Tensor = self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj
        return out


class OpenClip(nn.Module):
    """A small ViT as open_clip builds it."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = Visual()
        self.transformer = Transformer(TEXT)
        self.token_embedding = nn.Embedding(WORDS, TEXT)
        self.positional_embedding = nn.Parameter(torch.randn(LONG, TEXT))
        self.ln_final = nn.LayerNorm(TEXT)
        self.text_projection = nn.Parameter(torch.randn(TEXT, JOINT))
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def text(self, tokens: Tensor) -> Tensor:
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        mask = torch.full((x.shape[1], x.shape[1]), -torch.inf).triu(1)
        x = self.ln_final(self.transformer(x, mask))
        out: Tensor = x[torch.arange(len(x)), tokens.argmax(1)] @ self.text_projection
        return out


@torch.no_grad()
def test_a_state_dict_of_open_clip_sees_and_hears_as_there() -> None:
    torch.manual_seed(0)
    theirs = OpenClip().eval()
    state = theirs.state_dict()
    ours = CLIPModel(open_clip.config(state, quick=False)).eval()
    missing, unused = ours.load_state_dict(dict(open_clip.renamed(state)), strict=False)
    assert not missing
    assert not unused
    pixels = torch.rand(2, 3, 32, 32)
    tokens = torch.tensor([[38, 5, 6, 39, 39, 39], [38, 7, 39, 39, 39, 39]])
    torch.testing.assert_close(ours.get_image_features(pixels).pooler_output, theirs.visual(pixels), atol=1e-3, rtol=0)
    torch.testing.assert_close(ours.get_text_features(tokens).pooler_output, theirs.text(tokens), atol=1e-3, rtol=0)


def vit_b_32() -> dict[str, Tensor]:
    """Shapes alone, as OpenAI published them."""

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta")

    state = {
        "visual.class_embedding": empty(768),
        "visual.positional_embedding": empty(50, 768),
        "visual.proj": empty(768, 512),
        "visual.conv1.weight": empty(768, 3, 32, 32),
        "text_projection": empty(512, 512),
        "token_embedding.weight": empty(49408, 512),
        "positional_embedding": empty(77, 512),
        "logit_scale": empty(),
    }
    for norm, width in (("visual.ln_pre", 768), ("visual.ln_post", 768), ("ln_final", 512)):
        state |= {f"{norm}.weight": empty(width), f"{norm}.bias": empty(width)}
    for tower, width in (("visual.transformer", 768), ("transformer", 512)):
        for layer in range(12):
            name = f"{tower}.resblocks.{layer}"
            state |= {
                f"{name}.attn.in_proj_weight": empty(3 * width, width),
                f"{name}.attn.in_proj_bias": empty(3 * width),
                f"{name}.attn.out_proj.weight": empty(width, width),
                f"{name}.attn.out_proj.bias": empty(width),
                f"{name}.mlp.c_fc.weight": empty(4 * width, width),
                f"{name}.mlp.c_fc.bias": empty(4 * width),
                f"{name}.mlp.c_proj.weight": empty(width, 4 * width),
                f"{name}.mlp.c_proj.bias": empty(width),
            }
            state |= {f"{name}.ln_{i}.{end}": empty(width) for i in (1, 2) for end in ("weight", "bias")}
    return state


def test_vit_b_32_at_its_true_size_has_transformers_own_shapes() -> None:
    """Both at the size of the published weights, on a device that holds no numbers."""
    state = vit_b_32()
    with torch.device("meta"):
        published = CLIPModel(CLIPConfig())
    wanted = {name: value.shape for name, value in published.state_dict().items()}
    assert {name: value.shape for name, value in open_clip.renamed(state)} == wanted
    found: Any = open_clip.config(state, quick=True)
    wanted_facts: Any = published.config
    assert (found.vision_config.image_size, found.vision_config.patch_size) == (224, 32)
    assert found.vision_config.num_attention_heads == wanted_facts.vision_config.num_attention_heads
    assert found.text_config.num_attention_heads == wanted_facts.text_config.num_attention_heads


def test_a_folder_of_transformers_is_a_clip() -> None:
    clip = clips.opened(MINI)
    pictures = torch.rand(2, 3, 80, 80, requires_grad=True)
    seen, heard = clip.see(pictures), clip.hear(["a red boat", "a blue cat"])
    assert seen.shape == heard.shape
    torch.testing.assert_close(seen.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(heard.norm(dim=1), torch.ones(2))
    (seen @ heard.T).sum().backward()
    assert pictures.grad is not None
    assert pictures.grad.abs().sum() > 0
    assert len(clip.digest) == 64


def test_a_state_dict_in_a_folder_is_found_by_its_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((MINI / name).read_bytes())
    state = OpenClip().state_dict()
    words = json.loads((MINI / "vocab.json").read_text())
    state["token_embedding.weight"] = torch.randn(len(words), TEXT)
    state["positional_embedding"] = torch.randn(32, TEXT)
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / open_clip.FILES[0])
    clip = clips.opened(tmp_path)
    assert clip.side == 32
    assert clip.hear(["a red boat"]).shape == (1, JOINT)


@pytest.mark.parametrize("where", ["no/such/folder/at/all", "nothing-here.safetensors"])
def test_what_is_no_clip_is_refused(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="clip: "):
        clips.opened(where)


def test_texture_clip_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    clip = seeing("fire", "blue", "waves")
    texture.save(tmp_path, clip, "Apache-2.0")
    again = clips.opened(tmp_path)
    pictures = torch.rand(2, 3, 96, 96)
    torch.testing.assert_close(again.see(pictures), clip.see(pictures), atol=5e-3, rtol=0)
    torch.testing.assert_close(again.hear(["blue fire"]), clip.hear(["blue fire"]), atol=5e-3, rtol=0)
    assert again.vocabulary == ["fire", "blue", "waves"] or again.vocabulary == ("fire", "blue", "waves")


def test_a_texts_vector_is_the_mean_over_the_sentences() -> None:
    clip = seeing("fire", "photo", "a", "of", "the", "drawing")
    rows = clip.hear([template.format("fire") for template in TEMPLATES]).double()
    wanted = rows.mean(0) / rows.mean(0).square().sum().sqrt()
    torch.testing.assert_close(clips.heard(clip, "fire").double(), wanted, atol=1e-6, rtol=0)


def test_there_are_eighty_sentences() -> None:
    assert len(set(TEMPLATES)) == len(TEMPLATES) == 80
    assert "a bad photo of a fire." in filled("fire")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("  ", "got no words"),
        ("огонь", "doesn't know 'огонь'"),
        ("fire and brimstone", "'and', 'brimstone'"),
        ("fyre", "near: fire"),
    ],
)
def test_words_that_a_clip_does_not_know_are_named(text: str, told: str) -> None:
    with pytest.raises(WordsError, match=told):
        clips.checked(seeing("fire", "blue"), text)


@pytest.mark.parametrize(("text", "told"), [("", "got no words"), ("огонь", "say it in English"), ("火", "'火'")])
def test_a_clip_of_transformers_names_other_languages(text: str, told: str) -> None:
    with pytest.raises(WordsError, match=told):
        clips.checked(clips.opened(MINI), text)


def test_known_words_pass_as_one_line() -> None:
    assert clips.checked(seeing("blue", "fire"), " Blue \n fire ") == "Blue fire"


def test_the_towers_make_unit_vectors_of_any_size() -> None:
    clip = seeing("fire")
    assert F.normalize(clip.see(torch.rand(1, 3, 40, 50))).shape == (1, texture.JOINT)
    assert isinstance(clip, TextureClip)
