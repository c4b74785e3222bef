"""The commands `impasto serve`, `impasto calibrate` and `impasto doctor`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from time import sleep
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from impasto_server.adapters.bucket import shelf_of
from impasto_server.engines.calibration import Measured, keep
from impasto_server.engines.runtime import Runtime
from impasto_server.errors import ImpastoError, SetupError
from impasto_server.families import open_bundle
from impasto_server.ops.calibrate import calibrate as time_backbone
from impasto_server.ops.doctor import examine
from impasto_server.ops.endpoints import Endpoints, Ports
from impasto_server.ops.gateway import Door, Gateway
from impasto_server.ops.printer import Printer
from impasto_server.ops.serve import GRACE_S, LOOPBACK, SHM_BYTES, Plan, Server
from impasto_server.ops.supervise import GaveUp, Restarts, Supervisor
from impasto_server.settings import (
    AUTO,
    EngineName,
    Precision,
    Settings,
    bytes_or_auto,
    default_registry,
    place_of,
    placed,
    settled,
)

WATCH_S = 0.25
DEFAULT_BUNDLE = ".impasto/bundle"
BUNDLE_HELP = (
    "The folder that `impasto link` made. For several bundles pass NAME=DIR for each; a request's MODEL names one, and "
    "without it the first is used."
)
REGISTRY_HELP = "Where `impasto adapters` keeps adapters: a folder, or s3://…, gs://…, az://…, https://…"
COPIES_HELP = (
    "Where adapters of an object store are kept on this machine; default: impasto/registry in the user's cache."
)
STALE_HELP = "Seconds for which a name may mean what it last did, while the object store doesn't answer."
CACHE_HELP = (
    "Where engines keep compiled graphs. TensorRT has a default; OpenVINO has none, since it fills with weight copies."
)
RANK_HELP = (
    "Rank of the bank's pages. An adapter of rank r takes r / this many pages, rounded up; a step reads whole pages. "
    "If most of your adapters have a rank below 16, choose that rank."
)
BANK_HELP = (
    "Bytes for adapters that are ready to run, for each bundle. auto: a quarter of the free memory, shared by all "
    "bundles, and never more than is useful."
)
DEATHS = 5
MAX_GRACE_S = 24 * 3600.0
COMMAND_S = 10.0  # for a command to end after SIGTERM
GAVE_UP, CUT_OFF, INTERRUPTED = 3, 4, 130  # exit statuses; docs/operating.md has all of them
HTTP_HELP = "Also serve OpenAI's images API and a page there, by `impasto gateway`; 0 picks a free port."
QUIET_HELP = "Don't print the server's log, nor, with --http, the gateway's line for each request."
KEY_HELP = "Key to Triton's closed APIs, see docs/operating.md; without one they stay closed."
TRACES_HELP = (
    "Send traces there, http://HOST:4318 (OTLP over HTTP): the gateway's, and Triton's spans of the same requests."
)
BUSY = 1.25  # a median so far over the fastest pass is due to other load, not to the engine


def serve(
    command: Annotated[
        list[str] | None,
        typer.Argument(help="After --: a command to run with the server; the server stops when it ends."),
    ] = None,
    bundle: Annotated[list[str], typer.Option(metavar="[NAME=]DIR", help=BUNDLE_HELP)] = [DEFAULT_BUNDLE],  # noqa: B006
    registry: Annotated[str | None, typer.Option(metavar="DIR|URL", help=REGISTRY_HELP)] = None,
    registry_cache: Annotated[Path | None, typer.Option(help=COPIES_HELP)] = None,
    registry_cache_bytes: Annotated[
        int, typer.Option(help="Most bytes of those copies; the least recently used make room.")
    ] = Settings.registry_cache_bytes,
    registry_stale_s: Annotated[int, typer.Option(help=STALE_HELP)] = Settings.registry_stale_s,
    scorer: Annotated[
        Path | None, typer.Option(help="Bundle that `impasto link` made of a CLIP; adds clip_score.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = LOOPBACK,
    port: Annotated[int, typer.Option(help="gRPC's port; metrics: one above. 0: free ones.")] = 8001,
    http: Annotated[int | None, typer.Option(metavar="PORT", help=HTTP_HELP, show_default="off")] = None,
    http_host: Annotated[str, typer.Option(help="Address for --http; others than loopback need keys.")] = LOOPBACK,
    keys: Annotated[Path | None, typer.Option(help="With --http: file of hashes that `impasto keys` writes.")] = None,
    triton_http: Annotated[
        bool, typer.Option(help="Triton's own HTTP, one below gRPC's port; it doesn't notice clients that leave.")
    ] = False,
    admin_key: Annotated[str, typer.Option(envvar="IMPASTO_ADMIN_KEY", help=KEY_HELP, show_default=False)] = "",
    grace: Annotated[
        float, typer.Option(min=0, max=MAX_GRACE_S, help="Seconds to finish requests when the server stops.")
    ] = GRACE_S,
    shm_bytes: Annotated[
        int, typer.Option(min=1 << 20, help="Bytes of shared memory for requests, per model.")
    ] = SHM_BYTES,
    restart: Annotated[bool, typer.Option(help="Restart a server that died.")] = True,
    deaths: Annotated[int, typer.Option(min=1, help="Give up after more deaths than this in 10 minutes.")] = DEATHS,
    engine: Annotated[EngineName, typer.Option(help="What runs the graphs.")] = "openvino",
    precision: Annotated[Precision, typer.Option(help="auto: bf16 where the engine has it natively.")] = "auto",
    threads: Annotated[int, typer.Option(help="Cores to compute on; 0 takes all.")] = Settings.threads,
    max_lanes: Annotated[int, typer.Option(help="Most rows of a batch; 0: calibrated, else 8.")] = Settings.max_lanes,
    max_requests: Annotated[
        int, typer.Option(help="Most requests under way at once; more are refused.")
    ] = Settings.max_requests,
    page_rank: Annotated[int, typer.Option(help=RANK_HELP)] = Settings.page_rank,
    bank_bytes: Annotated[str, typer.Option(help=BANK_HELP)] = AUTO,
    host_bytes: Annotated[
        int, typer.Option(help="Bytes for cached adapters and prompts, for each bundle.")
    ] = Settings.host_bytes,
    gpu: Annotated[int, typer.Option(help="The GPU's number in nvidia-smi, for GPU engines.")] = Settings.gpu,
    cache_dir: Annotated[Path | None, typer.Option(help=CACHE_HELP)] = None,
    traces: Annotated[str | None, typer.Option(metavar="URL", help=TRACES_HELP)] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help=QUIET_HELP)] = False,
) -> None:
    """Serve bundles over gRPC, until Ctrl-C, or while the command after -- runs."""
    console = Console(stderr=True, highlight=False)
    printer = Printer(lambda line: console.print(line, soft_wrap=True))  # its reader may stop reading
    _interrupt_on_signals()
    status, supervisor, gateway = INTERRUPTED if command else 0, None, None
    try:
        settings = Settings(
            bundle=placed(bundle),
            registry=place_of(registry) if registry else default_registry(),
            registry_cache=registry_cache,
            registry_cache_bytes=registry_cache_bytes,
            registry_stale_s=registry_stale_s,
            scorer=scorer,
            engine=engine,
            precision=precision,
            threads=threads,
            max_lanes=max_lanes,
            max_requests=max_requests,
            page_rank=page_rank,
            bank_bytes=_bytes(bank_bytes),
            host_bytes=host_bytes,
            gpu=gpu,
            cache_dir=cache_dir,
        )
        ports = Ports.choose(host, port, triton_http)
        endpoints = Endpoints(ports, admin_key) if admin_key else Endpoints(ports)
        plan = Plan.of(settings, endpoints, grace, shm_bytes, traces)
        shelf_of(settings)  # an address that can't be opened is said here, before anything starts
        if isinstance(settings.registry, Path) and not settings.registry.is_dir():
            console.print(
                f"[yellow]note[/]  there is no registry at {escape(str(settings.registry))} yet, so no adapters"
            )
        most = deaths if restart else 0
        supervisor = Supervisor(plan, Restarts(most), _log(printer, quiet, "triton"), _teller(printer, "server"))
        if http is not None:
            door = Door.of(
                http_host,
                http,
                f"{ports.host}:{ports.grpc}",
                keys=keys,
                registry=settings.registry,
                bundles=settings.folders,
                grace_s=grace,
                metrics_url=f"http://{ports.host}:{ports.metrics}/metrics",
                traces=traces,
                requests=not (quiet or command),
            )
            gateway = Gateway(door, Restarts(most), _log(printer, quiet, "http"), _teller(printer, "gateway"))
        with _started(gateway), supervisor, _stopped_first(gateway):
            if gateway is not None and not gateway.is_ready():
                said = f"{gateway.door.url}/ready does not say 200 yet; the gateway's log may say why"
                console.print(f"[yellow]note[/]  {escape(said)}", soft_wrap=True)
            console.print(f"[bold green]ready[/]  {escape(_open_doors(supervisor.server, gateway))}", soft_wrap=True)
            status = _run(supervisor, gateway, settings, command) if command else _watch(supervisor, gateway)
    except KeyboardInterrupt:
        console.print("stopped")
    except (ImpastoError, OSError) as error:
        console.print(f"[bold red]error[/]  {escape(str(error))}")
        raise typer.Exit(1) from None
    except GaveUp as error:
        printer.close()
        console.print(f"[bold red]error[/]  {escape(str(error))}")
        raise typer.Exit(GAVE_UP) from None
    printer.close()
    if not all(one is None or one.stopped_in_order for one in (supervisor, gateway)):
        console.print(f"requests that were not finished after {grace:g} s were cut off", soft_wrap=True)
        status = status or CUT_OFF
    raise typer.Exit(status)


def calibrate(
    bundle: Annotated[Path, typer.Option(help="A folder that `impasto link` made; gets calibration.json.")] = Path(
        ".impasto/bundle"
    ),
    engine: Annotated[EngineName, typer.Option(help="What runs the graphs.")] = "openvino",
    precision: Annotated[Precision, typer.Option(help="auto: bf16 where the engine has it natively.")] = "auto",
    threads: Annotated[int, typer.Option(help="Cores to compute on; 0 takes all.")] = Settings.threads,
    limit: Annotated[int, typer.Option("--max", min=1, help="The most lanes to try.")] = 16,
    gpu: Annotated[int, typer.Option(help="The GPU's number in nvidia-smi, for GPU engines.")] = Settings.gpu,
    cache_dir: Annotated[Path | None, typer.Option(help=CACHE_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was measured as JSON.")] = False,
) -> None:
    """Measure how many lanes a forward pass should have on this machine, and save it in the bundle for `serve`."""
    console = Console(stderr=True, highlight=False)
    try:
        opened = open_bundle(bundle)
        settings = Settings(
            bundle, default_registry(), engine, precision, threads, max_lanes=limit, gpu=gpu, cache_dir=cache_dir
        )
        runtime = Runtime.of(settings).knowing(opened.manifest)
        with console.status(f"timing {opened.manifest.name} on {engine}"):
            measured = time_backbone(opened, settings, runtime)
        file = keep(opened, measured)
    except (ImpastoError, OSError) as error:
        console.print(f"[bold red]error[/]  {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(measured.model_dump_json(indent=2))
    else:
        out = Console(highlight=False)
        out.print(_lanes_table(measured))
        out.print(f"max_lanes {measured.max_lanes} → {escape(str(file))}", soft_wrap=True)
    if any(point.ms > BUSY * point.fastest_ms for point in measured.points):
        console.print(
            "[yellow]note[/]  the times vary a lot, so something else is running; calibrate on an idle machine"
        )


def doctor(
    bundle: Annotated[Path | None, typer.Option(help="Also say where this bundle fits.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say what this machine can run, and how to get what it lacks."""
    findings = examine(bundle)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        console = Console(highlight=False)
        for finding in findings:
            mark = "[green]✓[/]" if finding.ok else "[red]✗[/]" if finding.needed else "[yellow]–[/]"
            console.print(f"{mark} [bold]{finding.name}[/]  {escape(finding.found)}", soft_wrap=True)
            if finding.fix:
                console.print(f"    [yellow]→[/] {escape(finding.fix)}", soft_wrap=True)
    if not all(finding.ok for finding in findings if finding.needed):
        raise typer.Exit(1)


def _lanes_table(measured: Measured) -> Table:
    """A table with one row for each batch size, the picked one in bold."""
    table = Table("lanes", "ms per pass", "after another size", "first", "lanes/s", title=_title(measured))
    for column in table.columns:
        column.justify = "right"
    for point in measured.points:
        times = [f"{ms:.1f}" for ms in (point.ms, point.switch_ms, point.first_ms, point.lanes_per_second)]
        table.add_row(str(point.lanes), *times, style="bold green" if point.lanes == measured.max_lanes else "")
    return table


def _title(measured: Measured) -> str:
    return f"{measured.engine} {measured.precision}, {measured.threads} threads"


def _bytes(text: str) -> int | None:
    """The value of --bank-bytes. Raises SetupError."""
    try:
        return bytes_or_auto(text)
    except ValueError:
        raise SetupError(f"bank_bytes: {text!r} is not a number of bytes; pass a whole number, or {AUTO}") from None


def _open_doors(server: Server, gateway: Gateway | None) -> str:
    """The endpoints and what each serves."""
    http = f"on {gateway.door.url}" if gateway else "off"
    tritons = f"  Triton's HTTP {server.http_url}" if server.http_url else ""
    doors = f"gRPC {server.grpc_url} (inference, health, metadata)  HTTP {http}  metrics {server.metrics_url}"
    return doors + tritons


@contextmanager
def _started(gateway: Gateway | None) -> Iterator[None]:
    """Start the gateway before its server: it says what is wrong with it at once, and /ready fails meanwhile."""
    if gateway is not None:
        gateway.start()
    with _stopped_first(gateway):
        yield


@contextmanager
def _stopped_first(gateway: Gateway | None) -> Iterator[None]:
    """Let the gateway finish its requests while there is a server to finish them."""
    try:
        yield
    finally:
        if gateway is not None:
            gateway.stop()


def _look(supervisor: Supervisor, gateway: Gateway | None) -> None:
    """Check that both live. Raises GaveUp."""
    supervisor.look()
    if gateway is not None:
        gateway.look()
    sleep(WATCH_S)


def _run(supervisor: Supervisor, gateway: Gateway | None, settings: Settings, command: list[str]) -> int:
    """Run `command` with IMPASTO_URL set until it ends; returns its exit status. Raises GaveUp."""
    found = {"IMPASTO_URL": supervisor.server.grpc_url, "IMPASTO_REGISTRY": settled(settings.registry)}
    if gateway is not None:
        found["IMPASTO_HTTP_URL"] = gateway.door.url
    child = subprocess.Popen(command, env={**os.environ, **found})
    try:
        while child.poll() is None:
            _look(supervisor, gateway)
    finally:
        child.terminate()
        try:
            child.wait(COMMAND_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    return child.returncode


def _watch(supervisor: Supervisor, gateway: Gateway | None) -> NoReturn:
    """Watch the server until a signal comes. Raises GaveUp."""
    while True:
        _look(supervisor, gateway)


def _teller(printer: Printer, who: str) -> Callable[[str], None]:
    return lambda said: printer.say(f"[bold yellow]{who}[/]  {escape(said)}")


def _log(printer: Printer, quiet: bool, who: str) -> Callable[[str], None]:
    if quiet:
        return lambda line: None
    return lambda line: printer.say(f"[dim]{who} │[/] {escape(line)}")


def _interrupt_on_signals() -> None:
    """Treat SIGTERM as Ctrl-C. Only the first of either counts: stopping has a time limit and must not be cut short."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, interrupt)
