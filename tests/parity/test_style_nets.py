"""Nets whose every weight is the style paint what their authors' definitions paint, in both engines, alone and beside
others, at square and other sizes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from impasto_export import manifest
from impasto_export.adapters import check, importer
from impasto_export.adapters.loras import Imported
from impasto_export.adapters.registry import Registry
from impasto_export.errors import AdapterError, MisfitCheckpoint
from impasto_export.feedforward.found import Said
from impasto_export.feedforward.link import link
from impasto_export.merging.merge import merge
from impasto_server.errors import InvalidArgument
from impasto_server.pipeline import Pipeline
from impasto_server.settings import Settings
from tests.helpers import lua_files, stylers
from tests.helpers.engines import ENGINES, Engine, relative_error, run
from tests.helpers.stylers import randomised

TOLERANCE = 1e-4
SIZES = ((1, 64, 64), (3, 48, 72))
Array = NDArray[np.float32]
# Writes a file into the folder; what it is, and what else has to be said of it.
Saved = tuple[Path, Said]
BATCH = torch.nn.BatchNorm2d


def safetensors(path: Path, tensors: dict[str, torch.Tensor], said: Said = Said()) -> Saved:  # noqa: B008
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors"), said


def pickled(path: Path, content: object, said: Said = Said()) -> Saved:  # noqa: B008
    torch.save(content, path)
    return path, said


def lua(path: Path, net: Any) -> Saved:
    path.with_suffix(".t7").write_bytes(lua_files.encoded(lua_files.checkpoint(net)))
    return path.with_suffix(".t7"), Said()


def arrays(path: Path, net: Any) -> Saved:
    np.savez(path.with_suffix(".npz"), **{name: value.numpy() for name, value in net.named().items()})
    return path.with_suffix(".npz"), Said()


def variables(path: Path, net: Any) -> Saved:
    """As deeplearn.js wants them."""
    path.mkdir()
    for name, value in net.named().items():
        (path / name).write_bytes(value.numpy().tobytes())
    entries = {name: {"filename": name, "shape": [*value.shape]} for name, value in net.named().items()}
    (path / "manifest.json").write_text(json.dumps(entries))
    return path, Said()


def fast(folder: Path, net: Any) -> Saved:
    torch.save(net.encoder.state_dict(), folder / "vgg_normalised.pth")
    return pickled(
        folder / "clip_decoder_fire.pth.tar", net.decoder.state_dict(), Said(encoder=folder / "vgg_normalised.pth")
    )


def before_1_0(net: Any) -> dict[str, torch.Tensor]:
    """Old versions of torch saved statistics with instance norms, and never used them."""
    kept: dict[str, torch.Tensor] = net.state_dict()
    return {**kept, "in1.running_mean": torch.full((32,), 9.0), "in1.running_var": torch.full((32,), 7.0)}


NETS: dict[str, Callable[[], Any]] = {
    "examples": cache(lambda: randomised(stylers.TransformerNet())),
    "johnson": cache(lambda: randomised(stylers.Johnson())),
    "eccv16": cache(lambda: stylers.settled(randomised(stylers.Johnson(32, BATCH)))),
    "nearest": cache(lambda: randomised(stylers.Johnson(doubling="U"))),
    "reflecting": cache(lambda: randomised(stylers.Johnson(padding="reflect"))),
    "zeros": cache(lambda: randomised(stylers.Johnson(padding="zero"))),
    "lengstrom": cache(lambda: randomised(stylers.Lengstrom())),
    "unet": cache(lambda: randomised(stylers.UNet())),
    "fast": cache(lambda: randomised(stylers.Fast())),
}
FILES: dict[str, tuple[str, Callable[[Path, Any], Saved]]] = {
    "candy.pth": ("examples", lambda path, net: pickled(path / "candy.pth", net.state_dict())),
    "an old candy.safetensors": ("examples", lambda path, net: safetensors(path / "candy", before_1_0(net))),
    "a port by places": ("johnson", lambda path, net: pickled(path / "candy.pth", net.converted())),
    "a port by halves": ("johnson", lambda path, net: safetensors(path / "candy", net.pystiche())),
    "candy.t7": ("johnson", lambda path, net: lua(path / "candy", net)),
    "a port of batch norms": (
        "eccv16",
        lambda path, net: safetensors(path / "wave", net.converted(), Said(norm="batch")),
    ),
    "eccv16/the_wave.t7": ("eccv16", lambda path, net: lua(path / "the_wave", net)),
    "a port of U2": ("nearest", lambda path, net: safetensors(path / "muse", net.converted())),
    "U2.t7": ("nearest", lambda path, net: lua(path / "muse", net)),
    "a port that reflects": (
        "reflecting",
        lambda path, net: safetensors(path / "r", net.converted(), Said(padding="reflect")),
    ),
    "reflecting.t7": ("reflecting", lambda path, net: lua(path / "r", net)),
    "a port of zeros": ("zeros", lambda path, net: safetensors(path / "z", net.converted(), Said(padding="zero"))),
    "zeros.t7": ("zeros", lambda path, net: lua(path / "z", net)),
    "wave.npz": ("lengstrom", lambda path, net: arrays(path / "wave", net)),
    "a folder of ml5": ("lengstrom", lambda path, net: variables(path / "wave", net)),
    "CLIPstyler's U-Net": ("unet", lambda path, net: pickled(path / "fire.pth", {"state_dict": net.state_dict()})),
    "CLIPstyler's decoder": ("fast", fast),
}


@cache
def painted(net: str, lanes: int, height: int, width: int) -> tuple[Array, Array]:
    """A picture, and what the net's own definition makes of it."""
    picture = np.random.default_rng(lanes + height).random((lanes, 3, height, width), dtype=np.float32)
    with torch.no_grad():
        return picture, NETS[net]().paint(torch.from_numpy(picture)).numpy()


@pytest.mark.parametrize("file", FILES)
def test_a_linked_net_paints_as_its_definition(file: str, tmp_path: Path) -> None:
    name, save = FILES[file]
    place, said = save(tmp_path, NETS[name]())
    link(place, tmp_path / "bundle", said)
    for engine in ENGINES:
        for size in SIZES:
            picture, expected = painted(name, *size)
            (found,) = run(engine, tmp_path / "bundle", "transform", {"picture": picture})
            assert relative_error(found, expected) <= TOLERANCE, (engine, size)


def test_nets_have_the_sizes_that_they_have_in_the_world() -> None:
    sizes = {name: sum(value.numel() for value in NETS[name]().parameters()) for name in ("examples", "unet")}
    assert sizes == {"examples": 1_679_235, "unet": 615_267}
    assert sum(value.numel() for value in NETS["fast"]().decoder.parameters()) == 3_505_219


@pytest.mark.parametrize("engine", ENGINES)
def test_a_lane_is_the_same_beside_others(engine: Engine, tmp_path: Path) -> None:
    """Each takes its own picture's statistics, contrast included."""
    place, said = FILES["CLIPstyler's U-Net"][1](tmp_path, NETS["unet"]())
    link(place, tmp_path / "bundle", said)
    picture, _ = painted("unet", 3, 48, 72)
    (together,) = run(engine, tmp_path / "bundle", "transform", {"picture": picture})
    for at in range(3):
        (alone,) = run(engine, tmp_path / "bundle", "transform", {"picture": picture[at : at + 1]})
        assert relative_error(alone[0], together[at]) <= TOLERANCE


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Registry]:
    """A bundle of AdaIN's decoder, which gives the photo back, and two of CLIPstyler's as adapters."""
    folder = tmp_path_factory.mktemp("decoders")
    place, said = fast(folder, NETS["fast"]())
    link(place, folder / "bundle", said)
    registry = Registry(folder / "registry")
    for seed, name in enumerate(("fire", "sketch"), 1):
        torch.save(decoder(seed).state_dict(), folder / f"{name}.pth.tar")
        registry.put(name, imported(folder / f"{name}.pth.tar", folder / "bundle").data)
    return folder / "bundle", registry


def imported(place: Path, bundle: Path) -> Imported:
    return importer.adapters(place, "ink", manifest.load(bundle), importer.NOTHING, bundle)["ink"]


def decoder(seed: int) -> torch.nn.Module:
    return randomised(stylers.decoder(), seed)


def mixed(fire: float, sketch: float) -> Any:
    """As CLIPstyler's own interpolation makes it: the same sum of every parameter."""
    net: Any = randomised(stylers.Fast())
    parts = zip(net.decoder.parameters(), decoder(1).parameters(), decoder(2).parameters(), strict=True)
    with torch.no_grad():
        for own, first, second in parts:
            own.copy_((1 - fire - sketch) * own + fire * first + sketch * second)
    return net


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.25, 0.75), (0.5, 0.0)])
def test_decoders_are_mixed_in_their_weights(
    weights: tuple[float, float], decoders: tuple[Path, Registry], tmp_path: Path
) -> None:
    """Weights that sum to less than 1 leave the rest to the decoder that gives the photo back."""
    bundle, registry = decoders
    mix = [(name, weight) for name, weight in zip(("fire", "sketch"), weights, strict=True) if weight]
    merge(bundle, mix, tmp_path / "merged", registry)
    picture, photo = painted("fast", *SIZES[0])
    with torch.no_grad():
        expected = mixed(*weights).paint(torch.from_numpy(picture)).numpy()
    (found,) = run("onnxruntime", tmp_path / "merged", "transform", {"picture": picture})
    assert relative_error(found, expected) <= TOLERANCE
    assert relative_error(photo, expected) > 0.1


def test_a_pinned_mix_of_decoders_stands_beside_their_base(decoders: tuple[Path, Registry], tmp_path: Path) -> None:
    bundle, registry = decoders
    merge(bundle, [("fire", 0.5), ("sketch", 0.5)], tmp_path / "pinned", registry, pin=True)
    described = manifest.load(tmp_path / "pinned")
    picture, photo = painted("fast", *SIZES[0])
    (base,) = run("onnxruntime", tmp_path / "pinned", "transform", {"picture": picture})
    assert relative_error(base, photo) <= TOLERANCE
    (entry,) = described["pinned"]
    engine = onnxruntime.InferenceSession(str(tmp_path / "pinned" / entry["graphs"]["transform"]["file"]))
    with torch.no_grad():
        expected = mixed(0.5, 0.5).paint(torch.from_numpy(picture)).numpy()
    assert relative_error(engine.run(None, {"picture": picture})[0], expected) <= TOLERANCE


def test_decoders_are_checked_against_their_bundle(decoders: tuple[Path, Registry], tmp_path: Path) -> None:
    bundle, registry = decoders
    assert check.problems(registry, "fire", manifest.load(bundle), bundle) == []
    merge(bundle, [("fire", 1.0)], tmp_path / "merged", registry)
    torch.save(decoder(3).state_dict(), tmp_path / "ink.pth.tar")
    with pytest.raises(AdapterError, match="already has styles merged into its decoder; give the bundle"):
        imported(tmp_path / "ink.pth.tar", tmp_path / "merged")
    torch.save({**decoder(3).state_dict(), "28.bias": torch.ones(4)}, tmp_path / "ink.pth.tar")
    with pytest.raises(MisfitCheckpoint, match=r"28.bias: \[4\], \[3\] is expected"):
        imported(tmp_path / "ink.pth.tar", bundle)


@contextmanager
def serving(folder: Path, registry: Path) -> Iterator[Callable[..., NDArray[np.uint8]]]:
    """Paints a photo as a server does, in float32."""
    pipeline = Pipeline.load(Settings(folder, registry, "onnxruntime", precision="f32", max_lanes=1))

    def paint(photo: NDArray[np.uint8], **values: Any) -> NDArray[np.uint8]:
        file = BytesIO()
        Image.fromarray(photo).save(file, "png")
        result = pipeline.generate(pipeline.offer.request(image=file.getvalue(), **values))
        return np.asarray(Image.open(BytesIO(result.images[0])).convert("RGB"))

    try:
        yield paint
    finally:
        pipeline.close()


def framed(net: Any, photo: NDArray[np.uint8], border: int, multiple: int) -> NDArray[np.uint8]:
    """What the net's own definition paints of the photo with its mirror image around it, that cut off again."""
    height, width, _ = photo.shape
    after = [border + (-(side + 2 * border) % multiple) for side in (height, width)]
    around = np.pad(photo, ((border, after[0]), (border, after[1]), (0, 0)), "reflect")
    with torch.no_grad():
        painted = net.paint(torch.from_numpy(around.astype(np.float32) / 255).permute(2, 0, 1)[None])[0]
    within = painted.permute(1, 2, 0).numpy()[border : border + height, border : border + width]
    rounded: NDArray[np.uint8] = np.rint(within.clip(0, 1) * 255).astype(np.uint8)
    return rounded


PHOTO = np.asarray(Image.fromarray(np.random.default_rng(5).integers(0, 256, (12, 15, 3), np.uint8)).resize((75, 70)))


@pytest.mark.parametrize(
    ("name", "border", "multiple"), [("examples", 0, 4), ("johnson", 16, 4), ("lengstrom", 40, 4), ("unet", 40, 8)]
)
def test_a_server_paints_a_photo_of_any_size(name: str, border: int, multiple: int, tmp_path: Path) -> None:
    file = next(file for file, (net, _) in FILES.items() if net == name)
    place, said = FILES[file][1](tmp_path, NETS[name]())
    link(place, tmp_path / "bundle", said)
    with serving(tmp_path / "bundle", tmp_path / "registry") as paint:
        found = paint(PHOTO)
    assert np.abs(found.astype(int) - framed(NETS[name](), PHOTO, border, multiple)).max() <= 1


def test_a_server_paints_pinned_mixes_of_decoders(decoders: tuple[Path, Registry], tmp_path: Path) -> None:
    bundle, registry = decoders
    merge(bundle, [("fire", 0.25), ("sketch", 0.75)], tmp_path / "pinned", registry, pin=True)
    with serving(tmp_path / "pinned", registry.folder) as paint:
        found = paint(PHOTO, adapters={"fire": 0.25, "sketch": 0.75})
        with pytest.raises(InvalidArgument, match="'fire' changes weights by diff, .*`impasto export merge"):
            paint(PHOTO, adapters={"fire": 1.0})
    assert np.abs(found.astype(int) - framed(mixed(0.25, 0.75), PHOTO, 0, 8)).max() <= 1
