"""An SDXL checkpoint and LoRAs of any layout, brought in, served, and painted with.

python docs/examples/sdxl.py CHECKPOINT ink=LORA glow=LORA mist=LORA --prompt "a red boat" --out sheet.png

CHECKPOINT is a folder in diffusers' layout, a single .safetensors, or OWNER/REPO of the hub. Each LORA is a file or a
folder; before it stands the name that requests will use. The layouts of diffusers, kohya, PEFT and others are told
apart by what is in the file. Every command is printed before it runs, so these are also what you would type. The sheet
has the plain picture and one for each LoRA, all of the same words and seed; a second picture mixes the LoRAs. Nothing
here needs torch. SDXL's graphs come with impasto; --graphs is for an architecture that you exported yourself.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
from pathlib import Path


def impasto(*words: str) -> None:
    """Show a command and run it. Raises CalledProcessError where it fails."""
    print("$", shlex.join(["impasto", *words]), flush=True)
    subprocess.run(["impasto", *words], check=True)


def named(text: str) -> tuple[str, str]:
    """Of NAME=LORA both. Raises argparse.ArgumentTypeError."""
    name, _, place = text.partition("=")
    if not (name and place):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=LORA")
    return name, place


def main() -> None:
    """Link, import, serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("loras", nargs="+", metavar="NAME=LORA", type=named)
    parser.add_argument("--prompt", default="a red boat")
    parser.add_argument("--steps", default="25")
    parser.add_argument("--home", type=Path, default=Path(".impasto/sdxl"), help="for the bundle and the registry")
    parser.add_argument("--graphs", help="what `impasto export graphs` made")
    parser.add_argument("--out", type=Path, default=Path("sheet.png"))
    said = parser.parse_args()
    bundle, registry = ["--bundle", str(said.home / "bundle")], ["--registry", str(said.home / "registry")]

    impasto("link", said.checkpoint, "--out", bundle[1], *(["--graphs", said.graphs] if said.graphs else []))
    for name, lora in said.loras:
        impasto("adapters", "check", lora, *bundle, *registry)
        impasto("adapters", "import", lora, "--name", name, *bundle, *registry)

    words = ["--steps", said.steps, "--seed", "7"]
    each, mixed = (
        [part for name, _ in said.loras for part in ("--adapter", f"{name}:{weight}")] for weight in (0.8, 0.4)
    )
    sheet = ["impasto", "gallery", "--prompt", said.prompt, "--words", "", *each, *words, "--out", str(said.out)]
    mix = ["impasto", "generate", said.prompt, *mixed, *words, "--out", str(said.out.with_stem(f"{said.out.stem}-mix"))]
    both = f"{shlex.join(sheet)} && {shlex.join(mix)}"
    impasto("serve", *bundle, *registry, "--port", "0", "--quiet", "--", "sh", "-c", both)


if __name__ == "__main__":
    main()
