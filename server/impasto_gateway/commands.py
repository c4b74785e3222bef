"""The commands `impasto gateway` and `impasto keys`."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from impasto_client.errors import ConnectError, ImpastoError
from impasto_client.triton import checked_url
from impasto_gateway.callers import ROLES, Allowance, Caller
from impasto_gateway.keyring import NAME, BadKey, Keys, append, made
from impasto_gateway.keys import is_loopback
from impasto_gateway.serving import gate
from impasto_gateway.settings import GatewaySettings, Limits

VARIABLES = "IMPASTO_GATEWAY"  # and _PORT, _KEYS …: each option has a variable
CUT_OFF = 4  # exit status, as of `impasto serve`
KEYS_HELP = (
    "File of hashes that `impasto keys` writes. Without one, nor IMPASTO_KEYS, everybody on this machine may ask."
)
BUNDLE_HELP = (
    "With --registry: folder of a bundle that the servers have, which uploads are checked against; repeatable."
)

REGISTRY_HELP = "The servers' registry, so that adapters may be uploaded: a folder, or s3://…, gs://…, az://…"

gateway = typer.Typer(add_completion=False)
keys = typer.Typer(add_completion=False)


@gateway.command("gateway", context_settings={"auto_envvar_prefix": VARIABLES})
def serve_http(
    url: Annotated[
        list[str],
        typer.Option(metavar="HOST:PORT,…", help="gRPC endpoints of servers that serve the same; repeatable."),
    ] = ["localhost:8001"],  # noqa: B006
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback need keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 8080,
    keys: Annotated[Path | None, typer.Option(help=KEYS_HELP)] = None,
    registry: Annotated[str | None, typer.Option(metavar="PLACE", help=REGISTRY_HELP)] = None,
    bundle: Annotated[list[str], typer.Option(metavar="[NAME=]DIR", help=BUNDLE_HELP)] = [],  # noqa: B006
    origin: Annotated[list[str], typer.Option(help="A site whose pages may call, https://…; repeatable.")] = [],  # noqa: B006
    tls_certificate: Annotated[Path | None, typer.Option(help="Certificate chain (PEM); then it speaks HTTPS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    proxy: Annotated[list[str], typer.Option(help="Address of a proxy whose X-Forwarded-For counts; repeatable.")] = [],  # noqa: B006
    metadata: Annotated[bool, typer.Option(help="Write into pictures how they were made.")] = True,
    certificate: Annotated[Path | None, typer.Option(help="Sign pictures (C2PA) with this certificate chain.")] = None,
    private_key: Annotated[Path | None, typer.Option(help="The private key of --certificate.")] = None,
    check: Annotated[
        str | None, typer.Option(metavar="MODULE:NAME", help="Looks at each picture, may refuse it.")
    ] = None,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Write prompts into the log.")] = False,
    traces: Annotated[str | None, typer.Option(metavar="URL", help="Send traces there (OTLP over HTTP).")] = None,
    metrics_url: Annotated[
        list[str],
        typer.Option(
            help="Metrics of a server, to show with ours and, in the order of --url, to route by; repeatable."
        ),
    ] = [],  # noqa: B006
    open_metrics: Annotated[
        bool, typer.Option("--open-metrics", help="Whoever reaches /metrics may read them, without a key.")
    ] = False,
    body_bytes: Annotated[int, typer.Option(min=1, help="Most bytes of a request's body.")] = Limits.body_bytes,
    held_bytes: Annotated[
        int, typer.Option(min=1, help="Most bytes of all bodies in memory at once; beyond that, 503.")
    ] = Limits.held_bytes,
    adapter_bytes: Annotated[
        int, typer.Option(min=1, help="Most bytes of an uploaded adapter.")
    ] = Limits.adapter_bytes,
    timeout: Annotated[float, typer.Option(min=0.1, help="Most seconds that a picture may take.")] = Limits.timeout_s,
    notice: Annotated[
        float, typer.Option(min=0, help="When it stops: seconds in which /ready fails before the port is closed.")
    ] = 0.0,
    grace: Annotated[float, typer.Option(min=0, help="When it stops: seconds to finish requests.")] = 30.0,
) -> None:
    """Serve OpenAI's images API and a page over HTTP, in front of one server or several, until Ctrl-C."""
    console = Console(stderr=True, highlight=False)
    try:
        settings = GatewaySettings(
            urls=tuple(one.strip() for said in url for one in said.split(",") if one.strip()),
            host=host,
            port=port,
            keys=keys,
            registry=registry,
            bundles=folders(bundle),
            origins=tuple(origin),
            tls_certificate=tls_certificate,
            tls_key=tls_key,
            proxies=tuple(proxy),
            metadata=metadata,
            certificate=certificate,
            private_key=private_key,
            check=check,
            log_prompts=log_prompts,
            traces=traces,
            metrics_urls=tuple(metrics_url),
            open_metrics=open_metrics,
            grace_s=grace,
            limits=Limits(body_bytes=body_bytes, held_bytes=held_bytes, adapter_bytes=adapter_bytes, timeout_s=timeout),
        )
        check_settings(settings)
        check_urls(settings.urls)
        settings = replace(settings, port=free_port(host, port))
        server = gate(settings, notice)
    except (BadSettings, BadKey, ImpastoError, OSError) as error:
        raise _failed(console, error) from None
    scheme = "https" if tls_certificate else "http"
    console.print(f"[bold green]gateway[/]  {scheme}://{escape(_shown(host))}:{settings.port}", soft_wrap=True)
    server.run()
    if server.cut_off:
        console.print(f"requests that were not finished after {grace:g} s were cut off", soft_wrap=True)
        raise typer.Exit(CUT_OFF)


@keys.command("keys")
def make_key(
    name: Annotated[str, typer.Argument(help="Whose key it is; it stands in logs and metrics.")],
    file: Annotated[Path, typer.Option(help="File of hashes, for `impasto gateway --keys`; the key's line is added.")],
    role: Annotated[list[str], typer.Option(help=f"{', '.join(ROLES)}; repeatable.")] = ["generate"],  # noqa: B006
    requests_per_minute: Annotated[int, typer.Option(min=0, help="Most requests per minute; 0: any number.")] = 0,
    pixels_per_minute: Annotated[int, typer.Option(min=0, help="Most pixels painted per minute; 0: any number.")] = 0,
    concurrent: Annotated[int, typer.Option(min=0, help="Most requests at once; 0: any number.")] = 0,
) -> None:
    """Make a key for callers of the gateway: print it, this once, and keep its hash.

    To withdraw it, take its line out of the file; the gateway notices.
    """
    console = Console(stderr=True, highlight=False)
    try:
        if not NAME.fullmatch(name):
            raise BadKey(f"{name!r} is no name: use up to 64 of A-Z a-z 0-9 . _ -, first a letter or digit")
        if strange := set(role) - set(ROLES):
            raise BadKey(f"role: {min(strange)!r} is unknown; choose from {', '.join(ROLES)}")
        caller = Caller(name, frozenset(role), Allowance(requests_per_minute, pixels_per_minute, concurrent))
        secret, key = made(caller)
        append(file, key)
    except (BadKey, OSError) as error:
        raise _failed(console, error) from None
    typer.echo(secret)
    console.print(f"its hash is in {escape(str(file))}; the key itself is shown this once", soft_wrap=True)


class BadSettings(ValueError):
    """Options that can't be together; str() says which, and what to do."""


def check_settings(settings: GatewaySettings) -> None:
    """Raises BadSettings, BadKey or OSError for what would fail later, or be open to everybody."""
    if not settings.urls:
        raise BadSettings("url: there is none; pass the host:port of a server's gRPC")
    for url in settings.metrics_urls:
        if not url.startswith(("http://", "https://")):
            raise BadSettings(f"metrics_url: {url!r} is no address; pass http://HOST:PORT/metrics")
    if len(settings.urls) > 1 and len(settings.metrics_urls) not in (0, len(settings.urls)):
        got = f"there are {len(settings.metrics_urls)} for {len(settings.urls)} servers"
        raise BadSettings(f"metrics_url: {got}; pass one for each --url, in the same order, or none")
    if not Keys.of(settings).are_asked_for and not is_loopback(settings.host):
        fix = "make one with `impasto keys NAME --file FILE` and pass --keys FILE"
        raise BadSettings(f"host: {settings.host} can be reached by others, and there are no keys; {fix}")
    for one, other in (("tls_certificate", "tls_key"), ("certificate", "private_key")):
        if (getattr(settings, one) is None) is not (getattr(settings, other) is None):
            raise BadSettings(f"{one}: it goes with {other}; pass both, or neither")
    for name in ("tls_certificate", "tls_key", "certificate", "private_key"):
        path = getattr(settings, name)
        if path is not None:
            path.open("rb").close()
    if settings.registry is not None and not settings.bundles:
        raise BadSettings("registry: an upload is checked against its bundle; pass --bundle [NAME=]DIR too")


def check_urls(urls: Sequence[str]) -> None:
    """Raises BadSettings for what can't be a server's gRPC."""
    for url in urls:
        try:
            checked_url(url)
        except ConnectError as error:
            raise BadSettings(f"url: {error}") from None


def folders(said: Sequence[str]) -> dict[str, Path]:
    """The bundles' folders by name, from NAME=DIR, or from DIR, whose manifest has the name. Raises BadSettings."""
    found: dict[str, Path] = {}
    for text in said:
        name, mark, folder = text.partition("=")
        path = Path(folder) if mark else Path(text)
        name = name if mark else str(_manifest(path).get("name"))
        if name in found:
            raise BadSettings(f"bundle: {name!r} names both {found[name]} and {path}; give each a name: NAME=DIR")
        found[name] = path.resolve()
    return found


def free_port(host: str, port: int = 0) -> int:
    """This port, or any for 0, if it was free a moment ago. Raises BadSettings, and OSError."""
    with closing(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn: what a former gateway left is free
        try:
            listener.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise BadSettings(f"port: {port} is taken; pass another --port, or 0 for a free one") from None
        return int(listener.getsockname()[1])


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError) as error:
        raise BadSettings(f"bundle: {folder} is no bundle ({error}); pass a folder that `impasto link` made") from None
    return found if isinstance(found, dict) else {}


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _failed(console: Console, error: Exception) -> typer.Exit:
    console.print(f"[bold red]error[/]  {escape(str(error))}", soft_wrap=True)
    return typer.Exit(1)
