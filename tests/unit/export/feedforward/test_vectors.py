"""Styles of a net become adapters: fitted ones, γ and β, embeddings, those of a net's own file, and a picture's. One of
another network is refused, and both networks are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save_file
from typer.testing import CliRunner

from impasto_export import cli, manifest
from impasto_export.adapters import check
from impasto_export.adapters.loras import Imported
from impasto_export.adapters.registry import Registry
from impasto_export.errors import AdapterError
from impasto_export.feedforward import link, pictured, pictures, vectors
from impasto_export.feedforward.found import Said
from impasto_export.weights import read_header, read_tensor
from tests.helpers import stylers, trunk_graphs, trunks
from tests.helpers.trunks import Trunk

Array = NDArray[np.float32]
TRUNK = Trunk((4, 6, 8), 1)
STYLES = TRUNK.styles(3)
OTHER = 1  # the seed of the studio's net, of the same sizes
WEIGHT, NEUTRAL = trunks.embedding_layer(Trunk((4, 6, 8), 1, seed=OTHER))


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The studio's folder, with its bundle in it."""
    folder = tmp_path_factory.mktemp("mini")
    trunks.studio(folder / "mini", Trunk((4, 6, 8), 1, seed=OTHER))
    link.link(folder / "mini", folder / "bundle")
    return folder


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with three styles, with its bundle beside it."""
    folder = tmp_path_factory.mktemp("many")
    np.savez(folder / "net.npz", **trunks.tensorflow(TRUNK, STYLES))
    link.link(folder / "net.npz", folder / "bundle")
    return folder


def convert(place: Path, folder: Path, name: str = "style", style: str = "") -> dict[str, Imported]:
    return vectors.convert(place, manifest.load(folder / "bundle"), folder / "bundle", name, style)


def one(place: Path, folder: Path) -> Array:
    (made,) = convert(place, folder).values()
    return vector(made, place.parent)


def vector(made: Imported, spare: Path) -> Array:
    (spare / "made.safetensors").write_bytes(made.data)
    found: Array = read_tensor(read_header(spare / "made.safetensors"), vectors.TENSOR)
    return found


def fitted(folder: Path, numbers: Array, network: str, **said: str) -> Path:
    """As the studio writes it."""
    path = folder / "starry.safetensors"
    save_file({"vector": numbers}, path, {"network": network, **said})
    return path


def own(folder: Path) -> str:
    return trunks.network(folder / "mini")


# What they come as.


def test_a_fitted_vector_brings_its_name_and_whose_it_is(mini: Path, tmp_path: Path) -> None:
    path = fitted(
        tmp_path, STYLES[0], own(mini), name="starry", title="The Starry Night", artist="V. van Gogh", licence="CC0"
    )
    (name, made), *_ = convert(path, mini, name="").items()
    facts = manifest.load(mini / "bundle")
    assert name == "starry"
    assert np.array_equal(vector(made, tmp_path), STYLES[0])
    assert {
        key: made.record[key] for key in ("kind", "family", "architecture", "network", "size", "artist", "license")
    } == {
        "kind": "vector",
        "family": "feedforward",
        "architecture": facts["architecture"],
        "network": "mini",
        "size": TRUNK.size,
        "artist": "V. van Gogh",
        "license": "CC0",
    }
    assert made.record["source"]["assumed"] == []
    assert [*convert(path, mini, name="night")] == ["night"]


def test_a_folder_of_fitted_vectors_has_all_of_them(mini: Path, tmp_path: Path) -> None:
    for name, numbers in zip(("ink", "wave"), STYLES, strict=False):
        save_file({"vector": numbers}, tmp_path / f"{name}.safetensors", {"network": own(mini), "name": name})
    assert [*convert(tmp_path, mini, name="")] == ["ink", "wave"]
    with pytest.raises(AdapterError, match="--name: .* holds 2 style files; each has its own name"):
        convert(tmp_path, mini, name="all")


@pytest.mark.parametrize("spelling", ["the bundle's", "TensorFlow's"])
@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_gamma_and_beta_conv_by_conv(spelling: str, suffix: str, many: Path, tmp_path: Path) -> None:
    """In whatever order they lie in the file."""
    ends = {"the bundle's": "{0.name}.{1}", "TensorFlow's": "{0.scope}/InstanceNorm/{1}"}[spelling]
    held = {
        ends.format(place, part): np.ascontiguousarray(table[0])
        for place, tables in zip(TRUNK.places, trunks.rows_of(TRUNK, STYLES).values(), strict=True)
        for part, table in zip(("gamma", "beta"), tables, strict=True)
    }
    path = tmp_path / f"style.{suffix}"
    shuffled = dict(sorted(held.items(), reverse=True))
    np.savez(path, **shuffled) if suffix == "npz" else save_file(shuffled, path)
    assert np.array_equal(one(path, many), STYLES[0])


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors"])
@pytest.mark.parametrize("shape", [(100,), (1, 100), (1, 1, 1, 100)])
def test_an_embedding_is_expanded_once(suffix: str, shape: tuple[int, ...], mini: Path, tmp_path: Path) -> None:
    embedding = np.random.default_rng(3).standard_normal(trunks.EMBEDDING).astype(np.float32)
    path = tmp_path / f"style.{suffix}"
    stored = embedding.reshape(shape)
    match suffix:
        case "npy":
            np.save(path, stored)
        case "npz":
            np.savez(path, E=stored)
        case _:
            save_file({"E": stored}, path)
    (made,) = convert(path, mini).values()
    assert np.allclose(vector(made, tmp_path), WEIGHT @ embedding + NEUTRAL, atol=1e-5)
    assert made.record["source"]["layout"] == "embedding of 100"
    assert made.record["source"]["assumed"] == ["its network isn't stated: the bundle's was taken"]


def test_several_embeddings_are_several_styles(mini: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "all.npy", np.zeros((2, trunks.EMBEDDING), np.float32))
    assert [*convert(tmp_path / "all.npy", mini, name="e")] == ["e-00", "e-01"]


def test_a_nets_own_styles(many: Path, tmp_path: Path) -> None:
    found = convert(many / "net.npz", many, name="monet")
    assert [*found] == ["monet-00", "monet-01", "monet-02"]
    for number, made in enumerate(found.values()):
        assert np.array_equal(vector(made, tmp_path), STYLES[number])
    (picked,) = convert(many / "net.npz", many, name="monet", style="2").values()
    assert picked.data == found["monet-02"].data
    with pytest.raises(AdapterError, match="--style: got '7'; .*net.npz has the styles 00 to 02"):
        convert(many / "net.npz", many, style="7")


def test_a_net_that_was_linked_with_options_is_read_with_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "net.npz", **trunks.tensorflow(TRUNK, STYLES))
    link.link(tmp_path / "net.npz", tmp_path / "bundle", Said(padding="zero", epsilon=1e-3))
    assert len(convert(tmp_path / "net.npz", tmp_path)) == 3


# Another network's.


def refused(place: Path, folder: Path, *said: str) -> None:
    with pytest.raises(AdapterError) as caught:
        convert(place, folder)
    assert all(part in str(caught.value) for part in (place.name, *said)), str(caught.value)


def test_a_vector_of_another_network_names_both(mini: Path, tmp_path: Path) -> None:
    path = fitted(tmp_path, STYLES[0], "ab12" * 16)
    refused(path, mini, "a style of another network: ab12ab12ab12", f"the bundle's is mini {own(mini)[:12]}")


def test_a_vector_that_names_no_network_or_is_of_another_size_is_refused(mini: Path, tmp_path: Path) -> None:
    refused(fitted(tmp_path, STYLES[0], ""), mini, "one that isn't stated", "mini")
    refused(fitted(tmp_path, STYLES[0][:-1], own(mini)), mini, f"with {TRUNK.size - 1} numbers", f"with {TRUNK.size} ")


def test_an_embedding_of_another_network_names_both(mini: Path, many: Path, tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    save_file({"E": np.zeros(100, np.float32)}, path, {"network": "tfjs"})
    refused(path, mini, "a style of another network: tfjs, with 100 numbers", "the bundle's is mini")
    np.save(tmp_path / "e.npy", np.zeros(64, np.float32))
    refused(tmp_path / "e.npy", mini, "with 64 numbers", f"with {TRUNK.size} numbers or embeddings of 100")
    np.save(tmp_path / "e.npy", np.zeros(100, np.float32))
    refused(tmp_path / "e.npy", many, "with 100 numbers", f"net {manifest.load(many / 'bundle')['architecture'][:12]}")
    save_file({"E": np.zeros(100, np.float32)}, path, {"network": "mini"})
    (made,) = convert(path, mini).values()
    assert made.record["source"]["assumed"] == []


def test_styles_of_another_net_are_refused(many: Path, tmp_path: Path) -> None:
    other = Trunk((4, 6, 8), 1, seed=9)
    np.savez(tmp_path / "other.npz", **trunks.tensorflow(other, STYLES))
    refused(tmp_path / "other.npz", many, "a style of another network: other ", "the bundle's is net ")


def test_gamma_and_beta_of_other_convs_are_refused(many: Path, tmp_path: Path) -> None:
    rows = trunks.rows_of(TRUNK, STYLES[:1])
    held = {
        f"{name}.{part}": table
        for name, pair in rows.items()
        for part, table in zip(("gamma", "beta"), pair, strict=True)
    }
    path = tmp_path / "style.npz"
    np.savez(path, **{key: value for key, value in held.items() if key != "expand.conv1.beta"})
    refused(path, many, "without γ or β of expand.conv1")
    np.savez(path, **{**held, "other": np.zeros(3, np.float32)})
    refused(path, many, "with other, which the bundle's lacks")
    np.savez(path, **{**held, "expand.conv1.beta": np.zeros((1, 5), np.float32)})
    refused(path, many, f"with {TRUNK.size - 1} numbers for 1 styles")


def test_a_net_whose_weights_are_its_style_takes_no_vectors(tmp_path: Path) -> None:
    tensors = stylers.TransformerNet().state_dict()
    save_file({name: value.numpy() for name, value in tensors.items()}, tmp_path / "candy.safetensors")
    link.link(tmp_path / "candy.safetensors", tmp_path / "bundle")
    np.save(tmp_path / "e.npy", np.zeros(100, np.float32))
    with pytest.raises(AdapterError, match="network 'candy' has no style vectors: all its weights are one style"):
        convert(tmp_path / "e.npy", tmp_path)


# What is no style.


def test_what_is_no_number_is_refused(mini: Path, tmp_path: Path) -> None:
    spoilt = STYLES[0].copy()
    spoilt[3] = np.inf
    refused(fitted(tmp_path, spoilt, own(mini)), mini, "vector holds NaN or infinity")
    np.save(tmp_path / "e.npy", np.full(100, np.nan, np.float32))
    refused(tmp_path / "e.npy", mini, "holds NaN or infinity")


def test_a_file_of_something_else_says_what_it_holds(mini: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", apple=np.zeros(3), pear=np.zeros(4))
    refused(tmp_path / "x.npz", mini, "holds no style of a feed-forward net; its tensors: apple [3], pear [4]")
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY and then nothing")
    refused(tmp_path / "x.npy", mini, "cannot be read as .npy")
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], object), allow_pickle=True)
    refused(tmp_path / "x.npy", mini, "cannot be read as .npy")
    (tmp_path / "x.txt").write_text("blue")
    refused(tmp_path / "x.txt", mini, "holds no style; .safetensors, .npz, .npy, .onnx and a net's own file are read")


def test_a_style_without_a_name_asks_for_one(mini: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", np.zeros(100, np.float32))
    with pytest.raises(AdapterError, match="--name: .*e.npy doesn't name its style; give a name"):
        convert(tmp_path / "e.npy", mini, name="")
    with pytest.raises(AdapterError, match="--style: got '0'; .*e.npy has one style: leave it out"):
        convert(tmp_path / "e.npy", mini, style="0")


# A picture's.


def painting(folder: Path, size: tuple[int, int] = (50, 40)) -> Path:
    pixels = np.random.default_rng(5).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "painting.png")
    return folder / "painting.png"


def test_a_pictures_style_is_its_predictors(mini: Path, tmp_path: Path) -> None:
    place = painting(tmp_path)
    made = pictured.convert(place, manifest.load(mini / "bundle"), mini / "bundle")
    picture = pictures.square(place, 32).transpose(2, 0, 1)[None].astype(np.float32) / 255
    whole = (trunks.embedding_of(picture) @ WEIGHT.T + NEUTRAL)[0]
    assert np.allclose(vector(made, tmp_path), whole, atol=1e-4)
    assert made.record["source"] == {
        **made.record["source"],
        "file": "painting.png",
        "layout": "picture",
        "assumed": [],
    }
    half = pictured.convert(place, manifest.load(mini / "bundle"), mini / "bundle", 0.5)
    assert np.allclose(vector(half, tmp_path), (whole + NEUTRAL) / 2, atol=1e-4)
    assert half.record["source"]["assumed"] == ["at 0.5 of its strength, as --strength said"]


def test_what_cannot_be_predicted_says_why(mini: Path, many: Path, tmp_path: Path) -> None:
    place, facts = painting(tmp_path), manifest.load(mini / "bundle")
    with pytest.raises(AdapterError, match="network 'net' has no predictor, which makes a picture's style"):
        pictured.convert(place, manifest.load(many / "bundle"), many / "bundle")
    for strength in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(AdapterError, match="--strength: got .*; a number above 0, up to 1"):
            pictured.convert(place, facts, mini / "bundle", strength)
    place.write_bytes(b"no picture")
    with pytest.raises(AdapterError, match="painting.png cannot be read as a picture"):
        pictured.convert(place, facts, mini / "bundle")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "clip.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(AdapterError, match="clip.webp is animated; give a still picture"):
        pictured.convert(tmp_path / "clip.webp", facts, mini / "bundle")


def test_a_weaker_style_needs_what_it_fades_to(tmp_path: Path) -> None:
    onnx.save(trunk_graphs.embedded(Trunk((4, 6, 8), 1)), tmp_path / "net.onnx")
    onnx.save(trunks.predictor("NHWC"), tmp_path / "predict.onnx")
    link.link(tmp_path / "net.onnx", tmp_path / "bundle", Said(predictor=tmp_path / "predict.onnx"))
    facts = manifest.load(tmp_path / "bundle")
    assert len(vector(pictured.convert(painting(tmp_path), facts, tmp_path / "bundle"), tmp_path)) == TRUNK.size
    with pytest.raises(AdapterError, match="--strength: 'net' has no neutral vector; leave it out"):
        pictured.convert(painting(tmp_path), facts, tmp_path / "bundle", 0.5)


# The command line, and the registry.


def run(*words: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(cli.adapters, [str(word) for word in words], env={"COLUMNS": "300"})
    return result.exit_code, result.output


def test_many_styles_are_imported_listed_and_checked(many: Path, mini: Path, tmp_path: Path) -> None:
    registry = ("--registry", tmp_path / "registry")
    code, said = run("import", many / "net.npz", "--name", "monet", "--bundle", many / "bundle", *registry)
    assert code == 0
    assert f"monet-02: {Registry(tmp_path / 'registry').show('monet-02').digest[:12]}" in said
    assert f"style vector of net, {TRUNK.size} numbers" in run("list", *registry)[1]
    assert run("check", "monet-01", "--bundle", many / "bundle", *registry) == (0, "monet-01: ok\n")
    code, said = run("check", "monet-01", "--bundle", mini / "bundle", *registry)
    assert (code, said) == (1, "it is a style of the network 'net', the bundle's is 'mini'\n")


def test_one_of_many_and_a_pictures_style(many: Path, mini: Path, tmp_path: Path) -> None:
    registry = ("--registry", tmp_path / "registry")
    words = ("import", many / "net.npz", "--name", "monet", "--style", "1", "--bundle", many / "bundle", *registry)
    code, said = run(*words, "--json")
    assert (code, json.loads(said)["name"]) == (0, "monet")
    code, said = run("from-picture", painting(tmp_path), "--name", "mine", "--bundle", mini / "bundle", *registry)
    assert (code, said.startswith("mine: ")) == (0, True)
    assert Registry(tmp_path / "registry").names() == ["mine", "monet"]


def test_words_are_not_for_a_net_that_reads_none(many: Path, tmp_path: Path) -> None:
    words = ("import", many / "net.npz", "--name", "monet", "--bundle", many / "bundle")
    code, said = run(*words, "--trigger", "monet", "--registry", tmp_path / "registry")
    assert code == 1
    assert "--trigger: net is a feed-forward net, which reads no words; leave it out" in said
    code, said = run(*words[:2], "--name", "Mo net", "--bundle", many / "bundle", "--registry", tmp_path / "registry")
    assert code == 1
    assert not Registry(tmp_path / "registry").names()


def test_a_file_of_styles_is_explained(many: Path, mini: Path, tmp_path: Path) -> None:
    code, said = run("check", many / "net.npz")
    assert (code, "holds: 3 styles, with their net" in said) == (0, True)
    code, said = run("check", many / "net.npz", "--bundle", many / "bundle")
    assert (code, "styles: 3" in said) == (0, True)
    code, said = run("check", many / "net.npz", "--bundle", mini / "bundle")
    assert code == 1
    assert "a style of another network: net " in said
    path = fitted(tmp_path, STYLES[0], own(mini))
    assert f"a vector of {TRUNK.size} numbers, of the network {own(mini)[:12]}" in run("check", path)[1]


def test_a_registered_vector_of_another_size_is_found(mini: Path, tmp_path: Path) -> None:
    facts: dict[str, Any] = manifest.load(mini / "bundle")
    short = vectors.sealed_as(STYLES[0][:-2], facts, {"file": "x", "assumed": []}, {})
    store = Registry(tmp_path)
    store.put("short", short.data)
    (problem,) = check.problems(store, "short", facts, mini / "bundle")
    assert (
        problem == f"transform.style.vector: shape [{TRUNK.size - 2}], the network's vectors have {TRUNK.size} numbers"
    )
