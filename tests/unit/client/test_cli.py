"""The command `impasto`, without a server."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner, Result

from impasto_client import (
    AdapterNotFound,
    Client,
    ConnectError,
    FakeTransport,
    ImpastoError,
    InvalidRequest,
    ServerUnavailable,
    cli,
)
from impasto_client.bar import follow
from impasto_client.connection import Connection

COMMANDS = {
    "generate": "impasto_client.commands:generate",
    "upscale": "impasto_client.commands:upscale",
    "gallery": "impasto_client.commands:gallery",
    "score": "impasto_client.commands:score",
    "doctor": "no_such_package.commands:doctor",
    "export": "unit_client_late_import:app",
    "extra": "no_such_package:app",
}
ODD_STYLES = ["", " ", ":0-2", "a:", "a:0-", "a:-2", "a:0-2-4", "a:0:2", "a:0.9", "-a", "<a>", "a b", "A", "a,b", "a:²"]


@pytest.fixture(autouse=True)
def _commands(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [EntryPoint(name, value, cli.GROUP) for name, value in COMMANDS.items()]
    monkeypatch.setattr(cli, "entry_points", lambda group: found if group == cli.GROUP else [])


def impasto(*args: str | Path, fake: FakeTransport | None = None) -> Result:
    connection = Connection(lambda url: fake or FakeTransport())
    return CliRunner().invoke(cli.app, [str(arg) for arg in args], obj=connection, prog_name="impasto")


def words_of(text: str) -> str:
    """On one line, without colours and boxes, which depend on where the test runs."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[│─╭╮╰╯]", "", text).split())


def test_generate_sends_its_words_and_writes_the_file(tmp_path: Path) -> None:
    fake, out = FakeTransport(), tmp_path / "boat.webp"
    words = "--adapter stained-glass:0.5 --adapter neon --seed 7 --steps 25 --guidance-scale 4 --scheduler euler"
    more = ["--width", "64", "--height", "32", "--negative-prompt", "blurry"]
    result = impasto("generate", "a red boat at night", *words.split(), *more, "--out", out, fake=fake)
    assert result.exit_code == 0, result.output
    assert {name: tensor.tolist() for name, tensor in fake.requests[0].items()} == {
        "PROMPT": [b"a red boat at night"],
        "ADAPTER_NAMES": [b"stained-glass", b"neon"],
        "ADAPTER_WEIGHTS": [0.5, 1.0],
        "NEGATIVE_PROMPT": [b"blurry"],
        "STEPS": [25],
        "GUIDANCE_SCALE": [4.0],
        "SCHEDULER": [b"euler"],
        "SEED": [7],
        "WIDTH": [64],
        "HEIGHT": [32],
        "FORMAT": [b"webp"],
    }
    with Image.open(out) as picture:
        assert (picture.format, picture.size) == ("WEBP", (64, 32))
    assert str(out) in result.stdout
    assert fake.closed


def test_generate_says_nothing_that_it_was_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fake = FakeTransport()
    result = impasto("generate", "a red boat", fake=fake)
    assert result.exit_code == 0, result.output
    assert list(fake.requests[0]) == ["PROMPT"]
    assert (tmp_path / "impasto-0.png").exists()


def test_generate_takes_what_is_said_of_a_second_stage(tmp_path: Path) -> None:
    fake, small = FakeTransport(), tmp_path / "small.png"
    Image.new("RGB", (2, 2)).save(small)
    words = "--upscale-steps 5 --upscale-temperature 3 --upscale-guidance-scale 1.5 --upscale-style-strength 2"
    more = ["--upscale-text-strength", "0.5", "--base-image", str(small), "--out", str(tmp_path / "boat.png")]
    result = impasto("generate", "a red boat", *words.split(), *more, fake=fake)
    assert result.exit_code == 0, result.output
    assert {name: tensor.tolist() for name, tensor in fake.requests[0].items()} == {
        "PROMPT": [b"a red boat"],
        "FORMAT": [b"png"],
        "UPSCALE_STEPS": [5],
        "UPSCALE_TEMPERATURE": [3.0],
        "UPSCALE_GUIDANCE_SCALE": [1.5],
        "UPSCALE_STYLE_STRENGTH": [2.0],
        "UPSCALE_TEXT_STRENGTH": [0.5],
        "BASE_IMAGE": [small.read_bytes()],
    }


def test_upscale_sends_the_picture_as_it_is(tmp_path: Path) -> None:
    fake, small, out = FakeTransport(), tmp_path / "small.jpg", tmp_path / "large.png"
    Image.new("RGB", (128, 128)).save(small)
    words = "--style glass --guidance styledrop --upscale-steps 5 --width 256 --seed 4"
    result = impasto("upscale", small, "--prompt", "a red boat", *words.split(), "--out", out, fake=fake)
    assert result.exit_code == 0, result.output
    assert {name: tensor.tolist() for name, tensor in fake.requests[0].items()} == {
        "PROMPT": [b"a red boat"],
        "STYLE": [b"glass"],
        "GUIDANCE": [b"styledrop"],
        "SEED": [4],
        "WIDTH": [256],
        "FORMAT": [b"png"],
        "UPSCALE_STEPS": [5],
        "BASE_IMAGE": [small.read_bytes()],
    }
    assert out.exists()


@pytest.mark.parametrize(
    "words", ["--steps 4", "--temperature 1", "--image FILE", "--guidance-scale 2", "--base-image FILE"]
)
def test_upscale_has_no_words_for_the_first_stage(words: str, tmp_path: Path) -> None:
    small = tmp_path / "small.png"
    Image.new("RGB", (2, 2)).save(small)
    result = impasto("upscale", small, "--prompt", "a boat", *words.replace("FILE", str(small)).split())
    assert result.exit_code == 2
    assert f"No such option: {words.split()[0]}" in words_of(result.output)


def test_upscale_wants_to_be_told_what_it_shows(tmp_path: Path) -> None:
    small = tmp_path / "small.png"
    Image.new("RGB", (2, 2)).save(small)
    result = impasto("upscale", small)
    assert result.exit_code == 2
    assert "Missing option '--prompt'" in words_of(result.output)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("--style sks03", "sks03"),
        ("--style sks03:0", "sks03"),
        ("--style sks05:3-5 --style sks03:0-2", "sks03 sks03 sks03 sks05 sks05 sks05"),
        ("--style sks03:0 --style sks05:1 --style sks03:2", "sks03 sks05 sks03"),
    ],
)
def test_generate_takes_a_style_or_one_for_each_stage(tmp_path: Path, words: str, names: str) -> None:
    fake = FakeTransport()
    result = impasto("generate", "a red boat", *words.split(), "--out", tmp_path / "boat.png", fake=fake)
    assert result.exit_code == 0, result.output
    assert fake.requests[0]["STYLE"].tolist() == names.encode().split()


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        ("--guidance-scale 4", {"GUIDANCE_SCALE": [4.0]}),
        ("--style-guidance 2", {"GUIDANCE": [b"dreamstyler"], "STYLE_GUIDANCE": [2.0]}),
        ("--content-guidance -1", {"GUIDANCE": [b"dreamstyler"], "CONTENT_GUIDANCE": [-1.0]}),
        ("--guidance-convention paper", {"GUIDANCE": [b"dreamstyler"]}),
        (
            "--guidance-convention code --guidance-scale 7",
            {"GUIDANCE": [b"dreamstyler-code"], "GUIDANCE_SCALE": [7.0]},
        ),
    ],
)
def test_any_word_about_style_or_content_chooses_their_guidance(
    tmp_path: Path, words: str, sent: dict[str, list[object]]
) -> None:
    fake = FakeTransport()
    result = impasto("generate", "a red boat", *words.split(), "--out", tmp_path / "boat.png", fake=fake)
    assert result.exit_code == 0, result.output
    guidance = {name: tensor.tolist() for name, tensor in fake.requests[0].items() if "GUIDANCE" in name}
    assert guidance == sent


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        ("--guidance styledrop", {"GUIDANCE": [b"styledrop"]}),
        (
            "--guidance styledrop --guidance-scale 4",
            {"GUIDANCE": [b"styledrop"], "GUIDANCE_SCALE": [4.0]},
        ),
        ("--guidance styledrop --content my-toy", {"GUIDANCE": [b"styledrop"], "CONTENT": [b"my-toy"]}),
        ("--style-strength 0", {"GUIDANCE": [b"styledrop"], "STYLE_STRENGTH": [0.0]}),
        ("--text-strength -5", {"GUIDANCE": [b"styledrop"], "TEXT_STRENGTH": [-5.0]}),
        ("--guidance styledrop-compose", {"GUIDANCE": [b"styledrop-compose"]}),
        ("--content my-toy", {"GUIDANCE": [b"styledrop-compose"], "CONTENT": [b"my-toy"]}),
        ("--gamma 0", {"GUIDANCE": [b"styledrop-compose"], "GAMMA": [0.0]}),
        (
            "--gamma 0.75 --style-strength 2 --text-strength 5 --content-prompt fish --content my-toy",
            {
                "GUIDANCE": [b"styledrop-compose"],
                "CONTENT": [b"my-toy"],
                "GAMMA": [0.75],
                "STYLE_STRENGTH": [2.0],
                "TEXT_STRENGTH": [5.0],
                "CONTENT_PROMPT": [b"fish"],
            },
        ),
        ("--guidance-ramp", {"GUIDANCE_RAMP": [True]}),
        ("--no-guidance-ramp", {"GUIDANCE_RAMP": [False]}),
        ("--temperature 4.5 --n 1", {"TEMPERATURE": [4.5], "N": [1]}),
    ],
)
def test_any_word_about_adapters_chooses_their_guidance(
    tmp_path: Path, words: str, sent: dict[str, list[object]]
) -> None:
    fake = FakeTransport()
    result = impasto("generate", "a red fish", *words.split(), "--out", tmp_path / "fish.png", fake=fake)
    assert result.exit_code == 0, result.output
    told = {name: tensor.tolist() for name, tensor in fake.requests[0].items() if name not in ("PROMPT", "FORMAT")}
    assert told == sent


def test_candidates_are_numbered_files_the_best_first(tmp_path: Path) -> None:
    (tmp_path / "style.png").write_bytes(b"\x89PNG")
    words = "--no-metadata --n 3 --seed 7 --rerank style --style-image".split()
    result = impasto("generate", "a red fish", *words, tmp_path / "style.png", "--out", tmp_path / "fish.png", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    best = Client(transport=FakeTransport()).generate(
        "a red fish", seed=7, n=3, rerank="style", style_image=b"\x89PNG", format="png"
    )
    assert document["candidates"] == [
        {"out": str(tmp_path / f"fish-{place}.png"), "seed": candidate.seed, "score": candidate.score}
        for place, candidate in enumerate(best.candidates, 1)
    ]
    assert (document["out"], document["seed"]) == (str(tmp_path / "fish-1.png"), best.seed)
    written = [(tmp_path / f"fish-{place}.png").read_bytes() for place in (1, 2, 3)]
    assert written == [candidate.data for candidate in best.candidates]
    assert not (tmp_path / "fish.png").exists()


def test_candidates_without_a_name_have_their_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = impasto("generate", "a red fish", "--n", "2", "--seed", "7", "--rerank", "text")
    assert result.exit_code == 0, result.output
    assert sorted(file.name for file in tmp_path.iterdir()) == ["impasto-7.png", "impasto-8.png"]
    best = Client(transport=FakeTransport()).generate("a red fish", n=2, seed=7, rerank="text")
    assert result.stdout.splitlines() == [
        f"impasto-{candidate.seed}.png  seed {candidate.seed}, score {candidate.score:.3f}, 0 ms"
        for candidate in best.candidates
    ]


def test_generate_sends_pictures_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTransport()
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\0")
    (tmp_path / "depth.png").write_bytes(b"\x89PNG")
    words = "--image photo.jpg --strength 0.5 --depth depth.png --control-scale 0 --out boat.png"
    monkeypatch.chdir(tmp_path)
    result = impasto("generate", "a boat", *words.split(), fake=fake)
    assert result.exit_code == 0, result.output
    assert {name: tensor.tolist() for name, tensor in fake.requests[0].items() if name not in ("PROMPT", "FORMAT")} == {
        "IMAGE": [b"\xff\xd8\0"],
        "STRENGTH": [0.5],
        "DEPTH": [b"\x89PNG"],
        "CONTROL_SCALE": [0.0],
    }


def test_json_stands_alone_on_stdout_and_warnings_on_stderr(tmp_path: Path) -> None:
    out = tmp_path / "boat.png"
    fake = FakeTransport(warnings=["PROMPT: 41 tokens, the text encoder reads 30; dropped: '[bold] night'"])
    result = impasto("generate", "a red boat", "--seed", "7", "--out", out, "--json", fake=fake)
    document = json.loads(result.stdout)
    assert (document["out"], document["seed"], document["warnings"]) == (str(out), 7, list(fake.warnings))
    assert set(document) == {"out", "seed", "candidates", "timings", "warnings", "meta"}
    assert document["candidates"] == [{"out": str(out), "seed": 7, "score": None}]
    assert f"warning {fake.warnings[0]}" in words_of(result.stderr)


def test_previews_become_numbered_files(tmp_path: Path) -> None:
    fake, folder = FakeTransport(), tmp_path / "new" / "previews"
    words = ["generate", "a red boat", "--steps", "12", "--out", f"{tmp_path}/boat.png", "--previews", str(folder)]
    assert impasto(*words, fake=fake).exit_code == 0
    assert sorted(file.name for file in folder.iterdir()) == ["preview-005.png", "preview-010.png"]
    with Image.open(folder / "preview-005.png") as preview:
        assert preview.format == "PNG"
    assert impasto(*words, "--preview-every", "4", "--timeout", "7.5", fake=fake).exit_code == 0
    assert (folder / "preview-004.png").exists()
    assert fake.timeouts == [300, 7.5]


@pytest.mark.parametrize("words", [["generate", "a boat"], ["gallery"], ["score", "PICTURE", "--text", "a boat"]])
@pytest.mark.parametrize("timeout", ["nan", "0", "-1", "1e9"])
def test_what_is_no_time_to_wait_is_one_line(tmp_path: Path, words: list[str], timeout: str) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    words = [str(tmp_path / "a.png") if word == "PICTURE" else word for word in words]
    fake = FakeTransport()
    result = impasto(*words, "--timeout", timeout, fake=fake)
    assert result.exit_code == 1
    assert f"error TIMEOUT: {float(timeout)!r} is not a timeout; pass seconds" in words_of(result.stderr)
    assert not fake.requests


def test_previews_of_candidates_are_numbered_twice(tmp_path: Path) -> None:
    words = ["generate", "a red boat", "--steps", "6", "--n", "2", "--out", f"{tmp_path}/boat.png"]
    assert impasto(*words, "--previews", tmp_path / "previews").exit_code == 0
    names = sorted(file.name for file in (tmp_path / "previews").iterdir())
    assert names == ["preview-005-1.png", "preview-005-2.png"]


def test_json_is_the_same_with_previews(tmp_path: Path) -> None:
    words = ["generate", "a red boat", "--seed", "7", "--out", f"{tmp_path}/boat.png", "--json"]
    assert impasto(*words, "--previews", tmp_path).stdout == impasto(*words).stdout


def test_a_terminal_shows_the_steps_and_the_time_left() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    picture = follow(Client(transport=FakeTransport()).stream("a red boat", steps=4), console, None)
    shown = words_of(screen.getvalue())
    assert picture.image.size == (128, 128)
    assert "painting" in shown
    assert "4/4 0.0 s left" in shown


@pytest.mark.parametrize(
    "error",
    [
        ConnectError("nothing answers at localhost:8001; start a server with `impasto serve`"),
        AdapterNotFound("ADAPTER_NAMES: no adapter 'staned-glass'; did you mean 'stained-glass'?", "ADAPTER_NAMES"),
        InvalidRequest("STEPS: 10000 is out of range; pass 1 to 200", "STEPS"),
    ],
)
def test_an_error_is_one_line_and_status_1(error: ImpastoError, tmp_path: Path) -> None:
    result = impasto("generate", "a red boat", "--out", tmp_path / "boat.png", fake=FakeTransport(error=error))
    assert (result.exit_code, result.stdout) == (1, "")
    assert words_of(result.stderr) == f"error {error}"


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["a red boat", "--adapter", "neon:much"], "'much' is not a weight"),
        (["a red boat", "--adapter", "neon:nan"], "'nan' is not a weight"),
        (["a red boat", "--adapter", "neon:1", "--adapter", "neon:2"], "is named twice"),
        *(
            (["a red boat", f"--style={style}"], f"{style!r} is not a style; write NAME, or NAME:0-2")
            for style in ODD_STYLES
        ),
        (["a red boat", "--style", "a:2-0"], "'a:2-0' ends before it begins; write 0-2"),
        (["a red boat", "--style", "a:0-63", "--style", "b:64"], "stage 64 of 'b' is out of range; pass 0 to 63"),
        (["a red boat", "--style", "a:0-2", "--style", "b:4-5"], "stage 3 has no style; cover 0 to 5"),
        (["a red boat", "--style", "a:0-2", "--style", "b:2-5"], "stage 2 has both 'a' and 'b'"),
        (["a red boat", "--style", "a", "--style", "b:1"], "'a' is not the only style; give its stages"),
        (["a red boat", "--guidance-convention", "mine"], "'mine' is not one of 'paper', 'code'"),
        (["a red boat", "--guidance", "cfg"], "'cfg' is not one of 'styledrop', 'styledrop-compose'"),
        (
            ["a red boat", "--guidance", "styledrop", "--gamma", "0.5"],
            "styledrop doesn't use --gamma; pass --guidance styledrop-compose, or leave --gamma out",
        ),
        (
            ["a red boat", "--style-guidance", "2", "--style-strength", "2"],
            "--style-guidance, --style-strength belong to different guidance rules; keep",
        ),
        (["a red boat", "--style-image", "no/such.png"], "'no/such.png' does not exist"),
        (["a red boat", "--n", "many"], "--n"),
        (["a red boat", "--image", "no/such.png"], "'no/such.png' does not exist"),
        (["a red boat", "--depth", "."], "is a directory"),
        (["a red boat", "--out", "boat.tiff"], "does not end in"),
        (["a red boat", "--out", "no/such/boat.png"], "there is no folder"),
        (["a red boat", "--steps", "many"], "--steps"),
        (["a red boat", "--preview-every", "3"], "give their folder with --previews"),
        (["a red boat", "--previews", "x", "--preview-every", "0"], "--preview-every"),
        ([], "Missing argument"),
    ],
)
def test_wrong_usage_is_status_2_and_asks_no_server(args: Sequence[str], problem: str) -> None:
    fake = FakeTransport()
    result = impasto("generate", *args, fake=fake)
    assert (result.exit_code, fake.requests) == (2, [])
    assert problem in words_of(result.stderr)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    names = ["fish.png", "house [1].png"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    return [tmp_path / name for name in names]


def test_score_is_a_table_the_best_first(pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    fake = FakeTransport()
    result = impasto("score", *pictures, "--text", "house [1].png", fake=fake)  # the fake's cosine with itself is 1
    assert result.exit_code == 0, result.output
    head, first, second = (line.strip().split(maxsplit=1) for line in result.stdout.splitlines())
    assert head == ["score", "picture"]
    assert first == ["1.000", str(pictures[1])]
    assert second[1] == str(pictures[0])
    assert {name: tensor.tolist() for name, tensor in fake.requests[0].items()} == {
        "IMAGE": [b"fish.png", b"house [1].png"],
        "TEXT": [b"house [1].png"],
    }
    assert fake.closed


def test_score_against_a_picture_as_json(pictures: list[Path]) -> None:
    fake = FakeTransport()
    result = impasto("score", *pictures, "--reference", pictures[1], "--json", "--timeout", "7", fake=fake)
    best, other = json.loads(result.stdout)
    assert (best["picture"], best["score"]) == (str(pictures[1]), pytest.approx(1))
    assert other["picture"] == str(pictures[0])
    assert fake.timeouts == [7]


def test_score_reports_an_error_in_one_line(pictures: list[Path]) -> None:
    error = ServerUnavailable("the server at localhost:8001 has no scorer; start the server with --scorer")
    result = impasto("score", *pictures, "--text", "a fish", fake=FakeTransport(error=error))
    assert (result.exit_code, result.stdout) == (1, "")
    assert words_of(result.stderr) == f"error {error}"


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ([], "Missing argument"),
        ([__file__], "give one of the two"),
        ([__file__, "--text", "a fish", "--reference", __file__], "give one of the two"),
        (["no/such.png", "--text", "a fish"], "does not exist"),
        ([__file__, "--reference", "no/such.png"], "does not exist"),
    ],
)
def test_wrong_usage_of_score_asks_no_server(args: Sequence[str], problem: str) -> None:
    fake = FakeTransport()
    result = impasto("score", *args, fake=fake)
    assert (result.exit_code, fake.requests) == (2, [])
    assert problem in words_of(result.stderr)


def test_gallery_is_rows_of_prompts_by_columns_of_styles(tmp_path: Path) -> None:
    fake, out = FakeTransport(), tmp_path / "sheet.png"
    prompts = ["--prompt", "a red boat", "--prompt", "a blue house"]
    cells = ["--model", "muse", "--adapter", "stained-glass:0.5", "--seed", "3"]
    result = impasto("gallery", *prompts, *cells, "--out", out, fake=fake)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(out)
    assert [request["MODEL"].item() for request in fake.requests] == [b"muse"] * 4
    asked = [
        (request["PROMPT"].tolist()[0].decode(), request["SEED"].tolist()[0], "ADAPTER_NAMES" in request)
        for request in fake.requests
    ]
    assert sorted(asked) == [
        ("a blue house", 4, False),
        ("a blue house in stained glass style", 4, True),
        ("a red boat", 3, False),
        ("a red boat in stained glass style", 3, True),
    ]
    with Image.open(out) as sheet:
        assert min(sheet.size) > 2 * 256


def test_gallery_reports_an_error_in_one_line(tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    result = impasto("gallery", "--out", out, fake=FakeTransport(error=ConnectError("nothing answers")))
    assert (result.exit_code, out.exists()) == (1, False)
    assert "error nothing answers" in words_of(result.stderr)


def test_help_lists_every_command_and_imports_none() -> None:
    result = impasto("--help")
    assert result.exit_code == 0
    for name in COMMANDS:
        assert name in result.stdout


def test_help_of_a_command_is_its_own() -> None:
    assert "--guidance-scale" in words_of(impasto("generate", "--help").stdout)


def test_a_command_that_cannot_be_imported_names_its_extra() -> None:
    result = impasto("doctor")
    assert result.exit_code == 1
    assert "`impasto doctor` needs no_such_package" in words_of(result.stderr)
    assert "pip install 'impasto[server]'" in words_of(result.stderr)


def test_a_foreign_command_that_cannot_be_imported_names_no_extra_of_ours() -> None:
    result = impasto("extra")
    assert result.exit_code == 1
    assert "reinstall the package that brings this command" in words_of(result.stderr)


def test_a_command_that_imports_late_names_its_extra_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unit_client_late_import.py").write_text(
        "import typer\napp = typer.Typer()\n@app.command()\ndef graphs() -> None:\n    import no_such_torch\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    result = impasto("export")
    assert result.exit_code == 1
    assert "needs no_such_torch" in words_of(result.stderr)
    assert "pip install 'impasto[export]'" in words_of(result.stderr)


def test_an_unknown_command_is_status_2_with_the_nearest_name() -> None:
    result = impasto("generat")
    assert result.exit_code == 2
    assert "generate" in words_of(result.stderr)


def test_the_root_command_imports_no_other_package_of_ours() -> None:
    heavy = ("torch", "diffusers", "transformers", "openvino", "onnxruntime", "impasto_server", "impasto_export")
    code = (
        "import sys, impasto_client.cli as cli\n"
        "try: cli.app(['--help'])\n"
        "except SystemExit: pass\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
