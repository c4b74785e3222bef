"""A stand-in for the command `impasto`, as far as a replica uses it: it runs the command after -- while it "serves"."""

from __future__ import annotations

import sys
from pathlib import Path

SCRIPT = """#!{python}
import os, signal, subprocess, sys
options, command = sys.argv[1:sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1:]
print(*options, sorted(os.sched_getaffinity(0)), file=sys.stderr)
if "--broken" in options:
    print("error  bundle: there is none", file=sys.stderr)
    sys.exit(1)
child = None
def stop(number, frame):
    if child is not None:
        child.terminate()
    if "--stubborn" not in options:
        print("stopped", file=sys.stderr)
        sys.exit(0)
signal.signal(signal.SIGTERM, stop)
child = subprocess.Popen(command, env={{**os.environ, "IMPASTO_URL": "127.0.0.1:7"}})
status = child.wait()
while "--stubborn" in options:
    signal.pause()
print("its command ended", file=sys.stderr)
sys.exit(status)
"""


def impasto(folder: Path) -> Path:
    """The command, as a script in this folder."""
    script = folder / "impasto"
    script.write_text(SCRIPT.format(python=sys.executable))
    script.chmod(0o755)
    return script
