"""`bitrl serve`: an exported agent over HTTP."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import click

from bitrl.cli.backbone_options import backbone_option, backbone_options
from bitrl.cli.output import claim_stdout, echo, json_option, print_json
from bitrl.core.errors import UsageError
from bitrl.core.process_memory import parse_size
from bitrl.core.wording import warn

TOKEN = "BITRL_SERVE_TOKEN"
SHORTEST_TOKEN = 16


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen at; any but this machine's own takes a token.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen at; 0 takes a free one.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help=f"File with the token that clients must send; or set ${TOKEN}.",
)
@click.option("--max-body", metavar="SIZE", default="1MB", show_default=True, help="Largest body of a request.")
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    default=10_000.0,
    show_default=True,
    help="Requests a second of one client address.",
)
@click.option(
    "--queue", type=click.IntRange(min=1), default=4096, show_default=True, help="Observations that may wait."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds that an action may take, waiting included.",
)
@click.option(
    "--episodes", type=click.IntRange(min=1), default=10_000, show_default=True, help="Episodes that may be open."
)
@click.option(
    "--episode-idle",
    type=click.FloatRange(min=0, min_open=True),
    default=600.0,
    show_default=True,
    help="Seconds after which an episode that is not used ends.",
)
@backbone_option
@json_option
@click.pass_context
def serve(
    ctx: click.Context,
    file: Path,
    host: str,
    port: int,
    token_file: Path | None,
    max_body: str,
    rate: float,
    queue: int,
    timeout: float,
    episodes: int,
    episode_idle: float,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Serve an exported agent over HTTP.

    FILE was written by `bitrl export`. POST /act answers {"observation": …} by {"action": …}, greedily; requests of
    several clients are encoded together. / is a page that shows the agent act, /openapi.json describes the rest. Ctrl-C
    and SIGTERM stop the server once what came has been answered; SIGHUP reloads FILE.
    """
    ctx.with_resource(_hang_ups_wait())
    # Before NumPy is imported: the threads of its OpenBLAS, which the small heads do not need, spin where clients are
    # to be answered.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from bitrl.core.installing import needing

    for module in ("starlette", "uvicorn", "httptools"):
        with needing(module, "bitrl serve"):
            importlib.import_module(module)
    from bitrl.core.serving.server import bind, is_loopback, url
    from bitrl.core.serving.server import serve as run_server
    from bitrl.core.serving.service_limits import ServiceLimits, Token

    options = backbone_options(assignments)
    body = parse_size(max_body)
    if body is None:
        raise UsageError(f"--max-body: expected a size such as 300KB or 1MB, got {max_body}")
    for flag, number in (("--rate", rate), ("--timeout", timeout), ("--episode-idle", episode_idle)):
        if not math.isfinite(number):
            raise UsageError(f"{flag}: expected a finite number, got {number}")
    limits = ServiceLimits(
        body=body, rate=rate, queue=queue, timeout=timeout, episodes=episodes, episode_idle=episode_idle
    )
    secret = _secret(token_file)
    sockets = bind(host, port)
    if secret is None and not is_loopback(sockets):
        raise UsageError(
            f"--host {host} is reached from other machines, which takes a token: --token-file FILE, or ${TOKEN}"
        )

    stdout = claim_stdout() if as_json else None
    where = url(sockets)

    def ready() -> None:
        if as_json:
            print_json({"agent": str(file), "url": where, "process": os.getpid()}, stdout)
        else:
            echo(f"{file}: serving at {where} (process {os.getpid()}; Ctrl-C stops it)")
        _tell_systemd()

    run_server(file, options, sockets, limits, None if secret is None else Token(secret), ready)


@contextlib.contextmanager
def _hang_ups_wait() -> Iterator[None]:
    """Within, SIGHUP waits until the server has its handler: it would end a server that loads its agent yet, and
    systemd does not restart what a SIGHUP has ended.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _tell_systemd() -> None:
    """Clients can connect: what waits for it (a unit of Type=notify) need not any longer."""
    address = os.environ.pop("NOTIFY_SOCKET", "")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.connect(f"\0{address[1:]}" if address.startswith("@") else address)
            manager.sendall(b"READY=1")


def _secret(file: Path | None) -> str | None:
    """The token, of a file or of the environment; None where there is neither.

    Raises:
        UsageError: the file cannot be read, or the token is too short or no word.
    """
    secret, where = os.environ.pop(TOKEN, None), f"${TOKEN}"  # environments that are shown need not know it
    if file is None:
        if secret is None:
            return None
    else:
        where = f"--token-file {file}"
        try:
            secret = file.read_text(encoding="utf-8").strip()
            if stat.S_IMODE(file.stat().st_mode) & 0o077:
                warn(f"{file}: other users may read the token: chmod 600 it")
        except OSError as error:
            raise UsageError(f"{where}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise UsageError(f"{where}: expected a token, got a file that is no text") from None
    if len(secret) < SHORTEST_TOKEN or not (secret.isascii() and secret.isprintable()) or " " in secret:
        raise UsageError(f"{where}: expected a token of at least {SHORTEST_TOKEN} letters, digits and signs")
    return secret
