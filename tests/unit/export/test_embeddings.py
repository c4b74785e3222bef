"""Textual inversions of every layout become one format; what isn't one, or not this bundle's, is refused by name."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from impasto_export import cli, manifest
from impasto_export.adapters import check, embeddings, importer, pickles, sources
from impasto_export.adapters.importer import Said
from impasto_export.adapters.loras import nameless
from impasto_export.adapters.registry import Registry
from impasto_export.errors import AdapterError, ExportError, UnaccountedKeys
from impasto_export.weights import Header, encode, read_header, read_tensor
from impasto_server.adapters import adapter as adapters

Arrays = dict[str, tuple[str, np.ndarray[Any, Any]]]
WIDTH = 8


def takes(width: int) -> dict[str, Any]:
    """A text encoder's entry in a manifest."""
    return {"sites": [], "inputs": [{"name": "learned_embeds", "dtype": "float32", "shape": ["lanes", 77, width]}]}


def manifest_of(**widths: int) -> dict[str, Any]:
    encoders = {graph: takes(width) for graph, width in widths.items()}
    return {
        "family": "diffusion",
        "architecture": "a" * 64,
        "graphs": {**encoders, "unet": {"sites": [], "inputs": []}},
    }


ONE, TWO = manifest_of(text_encoder=WIDTH), manifest_of(text_encoder=WIDTH, text_encoder_2=WIDTH + 2)


def rows(value: float, *shape: int, dtype: str = "F32") -> tuple[str, np.ndarray[Any, Any]]:
    kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}[dtype]
    return dtype, np.full(shape or (WIDTH,), value).astype(kind)


def write(folder: Path, tensors: Arrays, name: str = "learned_embeds.safetensors") -> Path:
    (folder / name).write_bytes(encode(tensors, {}))
    return folder / name


def recognised(source: Path) -> bool:
    with sources.opened(source) as opened:
        return embeddings.recognises(opened, (WIDTH, WIDTH + 2))


def imported(source: Path, bundle: dict[str, Any] = ONE) -> tuple[Header, dict[str, Any]]:
    made = importer.convert(source, bundle)
    path = source.parent / "made.safetensors"
    path.write_bytes(made.data)
    header = read_header(path)
    assert json.loads(header.metadata["impasto"]) == nameless(made.record)
    return header, made.record


def vectors(header: Header, graph: str = "text_encoder") -> np.ndarray[Any, Any]:
    return read_tensor(header, f"{graph}.vectors")


@pytest.mark.parametrize(
    ("tensors", "layout", "token", "expected"),
    [
        ({"<cat>": rows(1)}, "diffusers", "<cat>", [[1]]),
        ({"<cat.v2>": rows(1, 3, WIDTH)}, "diffusers", "<cat.v2>", [[1, 1, 1]]),
        ({"cat": rows(0), **{f"cat_{i}": rows(i) for i in range(1, 12)}}, "diffusers", "cat", [[*range(12)]]),
        ({"emb_params": rows(1, 2, WIDTH)}, "kohya", None, [[1, 1]]),
        ({f"<s>-T{i}": rows(i) for i in range(12)}, "dreamstyler", "<s>", [[i] for i in range(12)]),
        ({f"<s>-T{i}": rows(i, 2, WIDTH) for i in (1, 0)}, "dreamstyler", "<s>", [[0, 0], [1, 1]]),
    ],
)
def test_layouts(tensors: Arrays, layout: str, token: str | None, expected: list[list[int]], tmp_path: Path) -> None:
    header, record = imported(write(tmp_path, tensors))
    assert vectors(header)[..., 0].tolist() == expected
    assert (record["stages"], record["vectors"]) == np.shape(expected)
    assert (record["source"]["layout"], record["source"].get("token")) == (layout, token)
    assert (record["kind"], record["family"], record["widths"]) == ("embedding", "diffusion", {"text_encoder": WIDTH})
    assert "architecture" not in record, "it fits any text encoder of its width"


def test_sdxl_has_vectors_for_each_of_its_text_encoders(tmp_path: Path) -> None:
    source = write(tmp_path, {"clip_g": rows(2, 3, WIDTH + 2), "clip_l": rows(1, 3, WIDTH)})
    header, record = imported(source, TWO)
    assert vectors(header).shape == (1, 3, WIDTH)
    assert vectors(header, "text_encoder_2").shape == (1, 3, WIDTH + 2)
    assert record["widths"] == {"text_encoder": WIDTH, "text_encoder_2": WIDTH + 2}


@pytest.mark.parametrize(
    ("tensors", "bundle", "expected"),
    [
        ({"clip_l": rows(1, 2, WIDTH)}, ONE, {"text_encoder": 1}),
        ({"clip_g": rows(1, 2, WIDTH)}, ONE, {"text_encoder": 1}),
        ({"clip_h": rows(1, 2, WIDTH)}, ONE, {"text_encoder": 1}),
        ({"clip_l": rows(2, 2, WIDTH + 2), "clip_g": rows(1, 2, WIDTH)}, TWO, {"text_encoder": 1, "text_encoder_2": 2}),
        (
            {"text_encoders_0": rows(1, 2, WIDTH), "text_encoders_1": rows(2, 2, WIDTH + 2)},
            TWO,
            {"text_encoder": 1, "text_encoder_2": 2},
        ),
        (
            {"<a>": rows(1), "<a>_1": rows(1), "<b>": rows(2, WIDTH + 2), "<b>_1": rows(2, WIDTH + 2)},
            TWO,
            {"text_encoder": 1, "text_encoder_2": 2},
        ),
        ({"a token of.dots": rows(1, 2, WIDTH)}, ONE, {"text_encoder": 1}),
    ],
)
def test_widths_tell_whose_vectors_they_are(
    tensors: Arrays, bundle: dict[str, Any], expected: dict[str, float], tmp_path: Path
) -> None:
    """Whatever they are called."""
    header, record = imported(write(tmp_path, tensors), bundle)
    assert {graph: vectors(header, graph)[0, :, 0].tolist() for graph in expected} == {
        graph: [value] * 2 for graph, value in expected.items()
    }
    assert record["widths"].keys() == expected.keys()


PAIRS = [
    ("learned_embeds.safetensors", "learned_embeds_2.safetensors"),
    ("learned_embeds-steps-500.safetensors", "learned_embeds_2-steps-500.safetensors"),
]


@pytest.mark.parametrize("names", PAIRS)
@pytest.mark.parametrize("given", [0, 1])
def test_both_files_of_a_pair_are_read(names: tuple[str, str], given: int, tmp_path: Path) -> None:
    """As diffusers' textual_inversion_sdxl.py writes them: one token, a file for each text encoder."""
    for name, width in zip(names, (WIDTH, WIDTH + 2), strict=True):
        write(tmp_path, {"<cat>": rows(width, 3, width)}, name)
    header, record = imported(tmp_path / names[given], TWO)
    assert vectors(header)[0, :, 0].tolist() == [WIDTH] * 3
    assert vectors(header, "text_encoder_2")[0, :, 0].tolist() == [WIDTH + 2] * 3
    assert record["source"]["file"] == (f"{names[0]}, {names[1]}")
    assert record["source"]["token"] == "<cat>"
    assert record["source"]["assumed"][-1].startswith(f"{names[1 - given]} beside it was read, too")


def test_both_files_of_a_folder_are_read(tmp_path: Path) -> None:
    for name, width in zip(PAIRS[0], (768, 1280), strict=True):
        write(tmp_path, {"<cat>": rows(1, width)}, name)
    made = importer.convert(tmp_path, manifest_of(text_encoder=768, text_encoder_2=1280))
    assert made.record["widths"] == {"text_encoder": 768, "text_encoder_2": 1280}
    assert made.record["source"]["file"] == ", ".join(PAIRS[0])
    with pytest.raises(AdapterError, match="its vectors are 768 and 1280 wide, .* is 768 wide: it is for a"):
        importer.convert(tmp_path, manifest_of(text_encoder=768))


def test_two_files_for_one_text_encoder(tmp_path: Path) -> None:
    for name in PAIRS[0]:
        write(tmp_path, {"<cat>": rows(1)}, name)
    with pytest.raises(UnaccountedKeys, match="<cat>: in both files, 8 wide in each"):
        importer.convert(tmp_path, ONE)


def test_as_many_vectors_as_a_text_has_places(tmp_path: Path) -> None:
    """75 of CLIP's 77 tokens; a server reads as many, and as many stages."""
    assert imported(write(tmp_path, {"<a>": rows(1, 75, WIDTH)}))[1]["vectors"] == 75
    short = manifest_of(text_encoder=WIDTH)
    short["graphs"]["text_encoder"]["inputs"][0]["shape"][1] = 32
    with pytest.raises(AdapterError, match="1 stages of 75 vectors; 1 to 64 stages of 1 to 30 vectors are served"):
        importer.convert(tmp_path / "learned_embeds.safetensors", short)
    assert (embeddings.MAX_STAGES, embeddings.MAX_VECTORS) == (adapters.MAX_STAGES, adapters.MAX_PLACES)


@pytest.mark.parametrize(
    "tensors",
    [
        {"layer.weight": rows(1, WIDTH + 1, WIDTH)},
        {"conv": rows(1, 320, 4, 3, WIDTH)},
        {"alpha": rows(1, 5)},
        {"<a>": rows(1), "conv": rows(1, 320, 4)},
    ],
)
def test_what_has_no_dot_in_its_name_is_no_embedding_for_that(tensors: Arrays, tmp_path: Path) -> None:
    source = write(tmp_path, tensors, "x.safetensors")
    assert not recognised(source)
    with pytest.raises(
        AdapterError, match="no embedding; its tensors: .*; an embedding's tensors are as wide as a text encoder"
    ):
        importer.convert(source, ONE)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (("IN01", "MID", "OUT11"), "IN01: for a block of a UNet (extended textual inversion), not for a text encoder"),
        (("clip_l_out",), "clip_l_out: for a text encoder's output (OneTrainer's), not for its input"),
        (("emb_params", "emb_params_out"), "emb_params_out: for a text encoder's output (OneTrainer's), not for its i"),
    ],
)
def test_vectors_that_are_no_tokens(keys: tuple[str, ...], reason: str, tmp_path: Path) -> None:
    source = write(tmp_path, {name: rows(1) for name in keys})
    with pytest.raises(UnaccountedKeys) as raised:
        importer.convert(source, ONE)
    assert raised.value.keys[0].startswith(reason)


def test_text_encoders_of_one_width_cannot_be_told_apart(tmp_path: Path) -> None:
    source = write(tmp_path, {"clip_l": rows(1), "clip_g": rows(2)})
    with pytest.raises(UnaccountedKeys, match="clip_l: not of the embedding"):
        importer.convert(source, manifest_of(text_encoder=WIDTH, text_encoder_2=WIDTH))
    with pytest.raises(AdapterError, match="the bundle's text encoders have the same width, so its vectors don't tell"):
        importer.convert(write(tmp_path, {"<a>": rows(1)}), manifest_of(text_encoder=WIDTH, text_encoder_2=WIDTH))


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_dtype_stays(dtype: str, tmp_path: Path) -> None:
    header, _ = imported(write(tmp_path, {"<cat>": rows(1, dtype=dtype)}))
    assert header.tensors["text_encoder.vectors"].dtype == dtype


def test_the_prompts_of_its_training(tmp_path: Path) -> None:
    source = write(tmp_path, {"<cat>": rows(1)})
    _, record = imported(source)
    assert record["prompt"] == "{context}, in the style of {style}"
    assert record["style_prompt"] == "A painting in the style of {style}"
    assert [note.split(":")[0] for note in record["source"]["assumed"]] == [
        "prompt is not stated",
        "style prompt is not stated",
    ]
    made = importer.convert(source, ONE, Said(prompt="{context} by {style}", style_prompt="by {style}"))
    assert (made.record["prompt"], made.record["style_prompt"]) == ("{context} by {style}", "by {style}")
    assert made.record["source"]["assumed"] == []
    for prompt, style_prompt in (("by {style}", ""), ("{context} {style} {style}", ""), ("", "{context} by {style}")):
        with pytest.raises(AdapterError, match="prompt: got"):
            importer.convert(source, ONE, Said(prompt=prompt, style_prompt=style_prompt))


def test_a_file_may_say_itself_how_it_was_trained(tmp_path: Path) -> None:
    said = {"prompt": "{context} by {style}", "style_prompt": "by {style}"}
    source = tmp_path / "learned_embeds.safetensors"
    source.write_bytes(encode({"<cat>": rows(1)}, said))
    _, record = imported(source)
    assert {key: record[key] for key in said} == said
    assert record["source"]["assumed"] == []


def test_a_masked_bundles_text_encoder_takes_them_too(tmp_path: Path) -> None:
    assert imported(write(tmp_path, {"<cat>": rows(1)}), {**ONE, "family": "masked"})[1]["family"] == "masked"


def test_same_source_same_bytes(tmp_path: Path) -> None:
    source = write(tmp_path, {"<cat>": rows(1)})
    assert importer.convert(source, ONE).data == importer.convert(source, ONE).data


def test_a_folder_holds_an_embedding_or_a_lora(tmp_path: Path) -> None:
    write(tmp_path, {"<cat>": rows(1)})
    assert recognised(tmp_path)
    assert importer.convert(tmp_path, ONE).record["source"]["file"] == "learned_embeds.safetensors"
    write(tmp_path, {"unet.mid.to_q.lora_A.weight": rows(1)}, "pytorch_lora_weights.safetensors")
    assert not recognised(tmp_path)


@pytest.mark.parametrize("key", ["unet.mid.to_q.lora_A.weight", "unet.conv_in.bias", "lora_unet_mid_to_q.alpha"])
def test_loras_are_left_to_the_other_importer(key: str, tmp_path: Path) -> None:
    assert not recognised(write(tmp_path, {key: rows(1)}))


@pytest.mark.parametrize(
    ("tensors", "unaccounted"),
    [
        ({"emb_params": rows(1), "extra": rows(1)}, ["extra: not of the embedding (kohya layout)"]),
        ({"<a>": rows(1), "<b>": rows(1)}, ["<b>: not of the embedding <a> (diffusers layout)"]),
        ({"<a>-T0": rows(1), "<b>-T0": rows(1)}, ["<b>-T0: not of the embedding <a> (dreamstyler layout)"]),
        ({"<a>-T0": rows(1), "<a>-T00": rows(1)}, ["<a>-T00: not of the embedding <a> (dreamstyler layout)"]),
        ({"<a>-T0": rows(1), "<a>": rows(1)}, ["<a>: not of the embedding <a> (dreamstyler layout)"]),
    ],
)
def test_unaccounted_keys_are_named(tensors: Arrays, unaccounted: list[str], tmp_path: Path) -> None:
    source = write(tmp_path, tensors)
    assert recognised(source)
    with pytest.raises(UnaccountedKeys) as raised:
        importer.convert(source, ONE)
    assert list(raised.value.keys) == unaccounted


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"<a>-T0": rows(1), "<a>-T2": rows(1), "<a>-T3": rows(1)}, "3 keys <a>-T…, but <a>-T1 is missing"),
        ({"cat": rows(1), "cat_2": rows(1)}, "but cat_1 is missing"),
        ({"<a>": rows(1, 768)}, "its vectors are 768 wide, the bundle's text_encoder is 8 wide"),
        ({"<a>": rows(np.nan)}, "<a> holds NaN or infinity"),
        ({"<a>": ("BF16", np.full(WIDTH, 0x7F80, "<u2"))}, "<a> holds NaN or infinity"),
        ({"<a>": rows(1, dtype="F64")}, r"<a> is F64 \[8\]; F32, F16 or BF16"),
        ({"<a>-T0": rows(1), "<a>-T1": rows(1, 2, WIDTH)}, r"differ: <a>-T0 is F32 \[8\], <a>-T1 is F32 \[2, 8\]"),
        ({"<a>-T0": rows(1), "<a>-T1": rows(1, dtype="F16")}, "its tensors differ"),
        ({"<a>": rows(1, 76, WIDTH)}, "1 stages of 76 vectors; 1 to 64 stages of 1 to 75 vectors"),
        ({"<a>": rows(1, 0, WIDTH)}, "1 stages of 0 vectors"),
        ({f"<a>-T{i}": rows(1) for i in range(65)}, "65 stages of 1 vectors"),
    ],
)
def test_what_is_wrong_is_named(tensors: Arrays, message: str, tmp_path: Path) -> None:
    source = write(tmp_path, tensors)
    assert recognised(source)
    with pytest.raises(AdapterError, match=message):
        importer.convert(source, ONE)


def test_one_encoders_vectors_do_not_fit_sdxl(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="8 wide, .* and text_encoder_2 is 10 wide: those for text_encoder_2 are m"):
        importer.convert(write(tmp_path, {"<a>": rows(1)}), TWO)


def test_a_bundle_of_older_graphs_takes_none(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="link the checkpoint again"):
        importer.convert(write(tmp_path, {"<a>": rows(1, 768)}), manifest_of())


def pickled(folder: Path, content: object, name: str) -> Path:
    torch.save(content, folder / name)
    return folder / name


def test_a1111s_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('not the numpy that is meant')")
    monkeypatch.chdir(tmp_path)
    param = torch.nn.Parameter(torch.arange(2.0 * WIDTH).reshape(2, WIDTH).T.contiguous().T)
    notes = {"name": "cat", "step": 500, "sd_checkpoint": None, "sd_checkpoint_name": None}
    content = {"string_to_token": {"*": 265}, "string_to_param": {"*": param}, **notes}
    header, record = imported(pickled(tmp_path, content, "cat.pt"))
    assert vectors(header).ravel().tolist() == list(range(2 * WIDTH))
    assert (record["source"]["layout"], record["source"]["token"]) == ("a1111", "cat")


def parameters(before: bool) -> torch.nn.ParameterDict:
    """As any torch keeps them, or as those before 1.12 did, without a list of keys and attributes of their names."""
    found = torch.nn.ParameterDict({"*": torch.nn.Parameter(torch.arange(2.0 * WIDTH).reshape(2, WIDTH))})
    if before:
        del found.__dict__["_keys"]
    return found


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.usefixtures("in_process")
def test_the_first_inversions_parameter_dict(before: bool, tmp_path: Path) -> None:
    """rinongal's code and InvokeAI's: a dictionary of parameters is as harmless as a dictionary of tensors."""
    content = {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": parameters(before)}
    header, record = imported(pickled(tmp_path, content, "embeddings_gs-5049.pt"))
    assert vectors(header).ravel().tolist() == list(range(2 * WIDTH))
    assert (record["source"]["layout"], record["source"]["token"]) == ("a1111", "*")


@pytest.mark.usefixtures("in_process")
def test_both_pickles_of_a_pair_are_read(tmp_path: Path) -> None:
    for number, width in (("", WIDTH), ("_2", WIDTH + 2)):
        pickled(tmp_path, {"<cat>": torch.full((width,), float(width))}, f"learned_embeds{number}.bin")
    header, record = imported(tmp_path / "learned_embeds.bin", TWO)
    assert vectors(header, "text_encoder_2")[0, 0].tolist() == [WIDTH + 2.0] * (WIDTH + 2)
    assert record["source"]["file"] == "learned_embeds.bin, learned_embeds_2.bin"


@pytest.mark.parametrize("name", ["cat.pt", "cat.safetensors", "cat.ckpt", "cat"])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.usefixtures("in_process")
def test_a_pickle_is_one_whatever_it_is_called(zipped: bool, name: str, tmp_path: Path) -> None:
    torch.save({"<cat>": torch.ones(WIDTH)}, tmp_path / name, _use_new_zipfile_serialization=zipped)
    assert imported(tmp_path / name)[1]["source"]["file"] == name


@pytest.mark.parametrize("name", ["embeddings.pti", "cat.pt", "cat.bin", "cat"])
def test_so_is_a_safetensors_file(name: str, tmp_path: Path) -> None:
    """Replicate's trainer calls its own .pti."""
    assert imported(write(tmp_path, {"<cat>": rows(1)}, name))[1]["source"]["file"] == name


def test_a_header_may_be_as_long_as_a_pickle_begins(tmp_path: Path) -> None:
    """0x0280 bytes are a pickle's first two."""
    source = tmp_path / "cat.safetensors"
    empty = len(encode({"<cat>": rows(1)}, {"note": ""})) - 4 * WIDTH - 8
    source.write_bytes(encode({"<cat>": rows(1)}, {"note": "x" * (0x0280 - empty)}))
    assert source.read_bytes()[:2] == b"\x80\x02"
    assert imported(source)[1]["vectors"] == 1


@pytest.mark.usefixtures("in_process")
def test_dreamstylers_pickle(tmp_path: Path) -> None:
    """Each vector is a view of the vocabulary's table, as training leaves it."""
    table = torch.arange(20.0).unsqueeze(1).repeat(1, WIDTH)
    source = pickled(tmp_path, {f"<sks03>-T{stage}": table[stage] for stage in reversed(range(11))}, "final.bin")
    header, record = imported(source)
    assert vectors(header)[:, 0, 0].tolist() == list(range(11))
    assert (record["source"]["layout"], record["source"]["token"]) == ("dreamstyler", "<sks03>")


class Shell:
    """Unpickled without a check, it runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (torch.save, "refused: this pickle is more than tensors, it asks for 'posix.system'"),
        (
            lambda content, path: path.write_bytes(pickle.dumps(content)),
            "refused: this pickle is more than tensors, it asks for 'torch.storage._load_from_bytes'",
        ),
    ],
)
def test_a_pickle_with_a_command_in_it_is_refused_and_runs_nothing(
    how: Callable[[object, Path], object], message: str, tmp_path: Path
) -> None:
    source = tmp_path / "learned_embeds.bin"
    how({"<a>": torch.ones(WIDTH), "<b>": Shell(f"touch {tmp_path}/ran")}, source)
    with pytest.raises(AdapterError, match=message):
        importer.convert(source, ONE)
    assert not (tmp_path / "ran").exists()


def test_a_tensor_that_unfolds_to_terabytes_takes_only_its_reader_down(tmp_path: Path) -> None:
    source = pickled(tmp_path, {"<a>": torch.ones(1).expand(1 << 40)}, "a.bin")
    with pytest.raises(AdapterError, match="not a file of tensors saved by torch, or damaged"):
        importer.convert(source, ONE)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"unet.conv_in.bias": torch.ones(WIDTH)}, r"no embedding; its tensors: unet.conv_in.bias F32 \[8\]"),
        ({"<a>": torch.ones(WIDTH), "loss": 0.5}, "loss: not part of an embedding"),
        ({"<a>": [torch.ones(WIDTH)]}, "'<a>' is a list; tensors, numbers and strings are read"),
        ({"string_to_param": {"*": {"*": torch.ones(WIDTH)}}}, "'string_to_param/\\*' is a dict"),
        (torch.ones(WIDTH), "it holds a Tensor, not a dictionary"),
    ],
)
def test_pickles_that_are_no_embeddings(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=message):
        importer.convert(pickled(tmp_path, content, "learned_embeds.bin"), ONE)


@pytest.mark.usefixtures("in_process")
def test_a_damaged_pickle(tmp_path: Path) -> None:
    source = pickled(tmp_path, {"<a>": torch.ones(WIDTH)}, "a.pt")
    source.write_bytes(source.read_bytes()[:-200])
    with pytest.raises(AdapterError, match="not a file of tensors"):
        importer.convert(source, ONE)


def test_a_pickle_is_read_without_torch(tmp_path: Path) -> None:
    source = pickled(tmp_path, {"<cat>": torch.ones(WIDTH)}, "cat.bin")
    code = f"""if True:
        import sys
        from pathlib import Path
        sys.modules["torch"] = None  # importing it fails
        from impasto_export.adapters import pickles
        pickles.convert(Path({str(source)!r}), Path({str(tmp_path / "out.safetensors")!r}))
    """
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert list(read_header(tmp_path / "out.safetensors").tensors) == ["<cat>"]


def test_pickles_get_little_time_and_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = pickled(tmp_path, {}, "a.pt")
    monkeypatch.setattr(pickles, "PATIENCE_S", 0.01)
    with pytest.raises(AdapterError, match="not read within"):
        importer.convert(source, ONE)
    monkeypatch.setattr(pickles, "MAX_BYTES", 10)
    with pytest.raises(AdapterError, match="pickles of up to 10 are read"):
        importer.convert(source, ONE)


def test_commands_from_import_to_rm(bundle: Path, tmp_path: Path) -> None:
    width = manifest.load(bundle)["graphs"]["text_encoder"]["inputs"][1]["shape"][-1]
    source = write(tmp_path, {f"<s>-T{stage}": rows(stage, width) for stage in range(6)})
    run, store = CliRunner(), ["--registry", str(tmp_path / "registry")]
    command = ["import", str(source), "--name", "sks03", "--bundle", str(bundle), *store]
    made = run.invoke(cli.adapters, [*command, "--style-prompt", "by {style}"])
    assert made.exit_code == 0, made.output
    assert "embedding, stages × vectors: 6 × 1\nnote: prompt is not stated" in made.output
    assert "stages × vectors: 6 × 1" in run.invoke(cli.adapters, ["list", *store]).output
    assert "style_prompt: by {style}" in run.invoke(cli.adapters, ["show", "sks03", *store]).output
    assert run.invoke(cli.adapters, ["check", "sks03", "--bundle", str(bundle), *store]).output == "sks03: ok\n"
    assert run.invoke(cli.adapters, ["rm", "sks03", *store]).exit_code == 0
    refused = run.invoke(cli.adapters, [*command, "--trigger", "w"])
    assert (refused.exit_code, "choose it with --name" in refused.output) == (1, True)


def test_a_lora_has_no_style_prompt(bundle: Path, tmp_path: Path) -> None:
    source = write(tmp_path, {"unet.mid.to_q.lora_A.weight": rows(1)}, "lora.safetensors")
    options = ["--name", "s", "--bundle", str(bundle), "--registry", str(tmp_path / "registry"), "--style-prompt", "x"]
    refused = CliRunner().invoke(cli.adapters, ["import", str(source), *options])
    assert (refused.exit_code, "--trigger" in refused.output) == (1, True)


def test_check_sees_a_bundle_of_another_width(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    registry.put("cat", importer.convert(write(tmp_path, {"<a>": rows(1)}), ONE).data)
    assert check.problems(registry, "cat", ONE) == []
    (problem,) = check.problems(registry, "cat", manifest_of(text_encoder=WIDTH + 1))
    assert "its vectors are 8 wide, the bundle's text_encoder is 9 wide" in problem
    short = manifest_of(text_encoder=WIDTH)
    short["graphs"]["text_encoder"]["inputs"][0]["shape"][1] = 2
    assert check.problems(registry, "cat", short) == ["it has 1 vectors, text_encoder has places for 0"]
    (problem,) = check.problems(registry, "cat", TWO)
    assert "text_encoder is 8 and text_encoder_2 is 10 wide: those for text_encoder_2 are missing" in problem


def test_a_truncated_file(tmp_path: Path) -> None:
    source = write(tmp_path, {"<a>": rows(1)})
    source.write_bytes(source.read_bytes()[:-1])
    with pytest.raises(ExportError, match="cut short"):
        recognised(source)
