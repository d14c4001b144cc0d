"""The server's HTTP interface: routes, and what is checked of a request before it reaches one.

Every answer but the page and the metrics is JSON; every error {"error": one line}. Knows Starlette; nothing of sockets.
"""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import attrs
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from bitrl.core.acting.admissible import COMMANDS
from bitrl.core.acting.agents import Agent
from bitrl.core.acting.explanation import Explanation
from bitrl.core.acting.json_input import parse_json
from bitrl.core.acting.plain_observations import plain_answer
from bitrl.core.errors import BitrlError, UsageError, cause
from bitrl.core.serving.batching import Batcher, commands_in
from bitrl.core.serving.demonstration import Demonstration
from bitrl.core.serving.metrics import CONTENT_TYPE, Metrics
from bitrl.core.serving.open_episodes import LONGEST_ID, OpenEpisodes
from bitrl.core.serving.openapi import openapi
from bitrl.core.serving.refusals import SOON, Refused
from bitrl.core.serving.service_limits import MOST_COMMANDS, Rates, ServiceLimits, Token
from bitrl.core.terminal import tell

OPEN = ("/", "/healthz")
"""Paths that need no token: the page holds nothing of the agent, and who restarts the server need not know it."""

SMALL_BODY, LARGE_BODIES = 2**16, 2**26
"""Bytes up to which a body is always taken, and which all larger ones may have together until they are read."""

DISCARDED = 16
"""How many times the largest body is read and thrown away, so that the client gets to read why it is refused."""

LONGEST_HOST = 300
"""Characters of a host's name and port."""

PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class Service:
    """The ASGI application that serves an agent.

    Attributes:
        batcher: acts; its `agent` may be replaced (`follow`).
        metrics: what is counted.
        episodes: those of clients.
    """

    def __init__(self, agent: Agent, limits: ServiceLimits, token: Token | None):
        """Without a `token`, for clients on this machine alone. Called within the event loop."""
        self.limits, self.metrics, self._token = limits, Metrics(), token
        self.batcher = Batcher(agent, self.metrics, limits.queue, limits.timeout)
        self.episodes = OpenEpisodes(limits.episodes, limits.episode_idle)
        self.demonstration = Demonstration()
        self._rates, self._bodies = Rates(limits.rate), 0
        self._page = (files("bitrl.core.serving") / "page.html").read_bytes()
        self._router = Router(
            [
                Route("/act", Endpoint(self._act), methods=["POST"]),
                Route("/episodes", Endpoint(self._begin_episode), methods=["POST"]),
                Route("/episodes/{episode}", Endpoint(self._end_episode), methods=["DELETE"]),
                Route("/", Endpoint(self._show_page), methods=["GET"]),
                Route("/demonstration", Endpoint(self._demonstrate), methods=["POST"]),
                Route("/agent", Endpoint(self._about), methods=["GET"]),
                Route("/healthz", Endpoint(self._health), methods=["GET"]),
                Route("/metrics", Endpoint(self._show_metrics), methods=["GET"]),
                Route("/openapi.json", Endpoint(self._describe), methods=["GET"]),
            ],
            redirect_slashes=False,
        )
        self.metrics.gauges |= {
            "bitrl_waiting_observations": ("Observations that wait for their action.", lambda: self.batcher.waiting),
            "bitrl_open_episodes": ("Episodes that were begun and not ended.", lambda: len(self.episodes)),
        }

    def follow(self, agent: Agent) -> None:
        """Let another agent act from now on."""
        self.batcher.agent = agent
        self.episodes.follow(agent)

    async def tidy(self) -> None:
        """End what nobody uses; called now and then."""
        self.episodes.end_idle()
        await self.demonstration.end_unwatched()

    async def close(self) -> None:
        """End the thread that acts, and the environment that is shown."""
        await self.demonstration.close()
        self.batcher.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        exchange = Exchange(receive, send, self.metrics)
        scope["app"] = self  # the router then raises what it would answer in plain text
        try:
            self._admit(scope)
            await self._router(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            return
        except Exception as error:
            if exchange.status:  # too late to say it
                raise
            refused = _as_refusal(error)
            close = await exchange.discard(DISCARDED * self.limits.body, scope)
            headers = refused.headers | ({"Connection": "close"} if close else {})
            await _json({"error": str(refused)}, refused.status, headers)(scope, exchange.receive, exchange.send)

    def _admit(self, scope: Scope) -> None:
        """Refuse requests that come too often, from another site's page, or without the token."""
        client = scope["client"][0] if scope["client"] else ""
        if not self._rates.allows(client):
            raise Refused(429, f"expected at most {self.limits.rate:g} requests a second of a client, got more", SOON)
        headers = {name: value for name, value in scope["headers"] if name in (b"host", b"origin", b"authorization")}
        if self._token is None:
            host, origin = headers.get(b"host", b"").decode("latin-1"), headers.get(b"origin", b"").decode("latin-1")
            _check_site(host[:LONGEST_HOST], origin[:LONGEST_HOST])
        elif scope["path"] not in OPEN and not self._token.admits(headers.get(b"authorization", b"")):
            raise Refused(
                401,
                "expected the header Authorization: Bearer TOKEN with the server's token",
                {"WWW-Authenticate": "Bearer"},
            )

    async def _act(self, request: Request) -> Response:
        began = time.perf_counter()
        asked = asked_for(await self._json_of(request))
        agent = self.batcher.agent
        if agent.history > 1 and asked.episode is None:
            raise Refused(
                422,
                f"this agent reads the last {agent.history} states of an episode: begin one with POST /episodes, and "
                'send its id: {"observation": …, "episode": …}',
            )
        episode = None if asked.episode is None else self.episodes.use(asked.episode)
        waiting = self.batcher.put(asked.observations, episode, asked.explain)
        asked = asked.read_by(waiting.agent)
        found = await self.batcher.answer(waiting)
        self.metrics.seconds.add(time.perf_counter() - began)
        return _json(asked.answer(found))

    async def _json_of(self, request: Request) -> Any:
        """The JSON in the body of a request.

        Raises:
            Refused: it is not said to be JSON, is too large, or is none.
        """
        most = self.limits.body
        kind = request.headers.get("content-type", "")
        if kind.partition(";")[0].strip().lower() != "application/json":
            raise Refused(415, f'expected the header Content-Type: application/json, got "{kind[:80]}"')
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > most:
            raise _too_large(most)
        data, counted = bytearray(), 0
        try:
            async for part in request.stream():
                data += part
                if len(data) > most:
                    raise _too_large(most)
                if len(data) > SMALL_BODY:
                    self._bodies += len(data) - counted
                    counted = len(data)
                    if self._bodies > max(LARGE_BODIES, 2 * most):
                        raise Refused(503, "too many large bodies are on their way: try again in a second", SOON)
            return parse_json(bytes(data))
        except UsageError as error:
            raise Refused(400, str(error)) from None
        finally:
            self._bodies -= counted

    async def _begin_episode(self, request: Request) -> Response:
        return _json({"episode": self.episodes.begin(self.batcher.agent)}, 201)

    async def _end_episode(self, request: Request) -> Response:
        self.episodes.end(request.path_params["episode"])
        return Response(status_code=204)

    async def _demonstrate(self, request: Request) -> Response:
        given = await self._json_of(request)
        if not isinstance(given, dict) or given.keys() != {"begin"} or not isinstance(given["begin"], bool):
            raise Refused(422, 'expected {"begin": true} for a new episode or {"begin": false} for the next step')
        found = await self.demonstration.step(self.batcher, given["begin"])
        explanation: Explanation = found["explanation"]
        action = plain_answer(found["observation"], explanation.action, self.batcher.agent.commanded)
        return _json({**found, "explanation": as_json(explanation), "action": action})

    async def _about(self, request: Request) -> Response:
        agent = self.batcher.agent
        facts = {name: agent.facts.get(name) for name in ("env", "step", "serializer", "backbone", "history")}
        return _json({**facts, "example": agent.example})

    async def _health(self, request: Request) -> Response:
        if self.batcher.stuck():
            raise Refused(503, f"a batch has been acted on for more than {self.limits.timeout:g} seconds")
        return _json({"status": "ok"})

    async def _show_metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def _describe(self, request: Request) -> Response:
        return _json(openapi(self.batcher.agent))

    async def _show_page(self, request: Request) -> Response:
        return Response(self._page, media_type="text/html", headers=PAGE_HEADERS)


@attrs.frozen
class Endpoint:
    """Answers a request by a function's response; its errors are left to who called the router."""

    respond: Callable[[Request], Awaitable[Response]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        response = await self.respond(Request(scope, receive))
        await response(scope, receive, send)


class Exchange:
    """A request and its answer as they pass: what has come, and what was answered.

    Attributes:
        status: of the answer; 0 before it begins.
    """

    __slots__ = ("_coming", "_metrics", "_receive", "_send", "status")

    def __init__(self, receive: Receive, send: Send, metrics: Metrics):
        self._receive, self._send, self._metrics, self._coming, self.status = receive, send, metrics, True, 0

    async def receive(self) -> Message:
        """The next part of the request."""
        message = await self._receive()
        self._coming = message["type"] == "http.request" and message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """The next part of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._metrics.requests[self.status] += 1
        await self._send(message)

    async def discard(self, most: int, scope: Scope) -> bool:
        """Read what is left of the request, up to `most` bytes: a connection that is closed before may take the answer
        with it. Returns whether some is left.
        """
        if any(name == b"expect" for name, _ in scope["headers"]):
            return self._coming  # the client waits for the answer before it sends more
        while self._coming and most > 0:
            message = await self.receive()
            most -= len(message.get("body", b""))
        return self._coming


@attrs.frozen
class ActRequest:
    """What a request to act asks for; `single`: the action of one observation, not a list."""

    observations: Sequence[Any]
    episode: str | None
    explain: bool
    single: bool

    def read_by(self, agent: Agent) -> ActRequest:
        """The same with no more than `answer` needs: what else a client has sent need not wait for the answer."""
        commands = [{COMMANDS: each[COMMANDS]} if agent.commanded else None for each in self.observations]
        return attrs.evolve(self, observations=commands)

    def answer(self, found: Sequence[Any]) -> dict[str, Any]:
        """The answer, of actions or explanations."""
        actions = [each.action if self.explain else each for each in found]
        pairs = zip(self.observations, actions, strict=True)
        plain = [plain_answer(observation, action, observation is not None) for observation, action in pairs]
        answer: dict[str, Any] = {"action": plain[0]} if self.single else {"actions": plain}
        if self.explain:
            parts = [*map(as_json, found)]
            answer |= {"explanation": parts[0]} if self.single else {"explanations": parts}
        return answer


def asked_for(given: Any) -> ActRequest:
    """What the JSON of a request to act asks for.

    Raises:
        Refused: it is none.
    """
    if not isinstance(given, dict) or ("observation" in given) is ("observations" in given):
        raise Refused(422, 'expected {"observation": …} or {"observations": […]}')
    single = "observation" in given
    known = ("observation", "episode", "explain") if single else ("observations", "explain")
    if other := [name for name in given if name not in known]:
        raise Refused(422, f'expected the keys {", ".join(known)}, got "{other[0][:80]}"')
    explain = given.get("explain", False)
    if not isinstance(explain, bool):
        raise Refused(422, f'"explain": expected true or false, got {json.dumps(explain)[:80]}')
    observations = [given["observation"]] if single else given["observations"]
    if not isinstance(observations, list) or not observations:
        raise Refused(422, f'"observations": expected a list of them, got {json.dumps(observations)[:80]}')
    if any(commands_in(each) > MOST_COMMANDS for each in observations):
        raise Refused(422, f'"{COMMANDS}": expected at most {MOST_COMMANDS:,}')
    episode = given.get("episode")
    if "episode" in given and not (isinstance(episode, str) and 1 <= len(episode) <= LONGEST_ID):
        raise Refused(422, f'"episode": expected the id of one, got {json.dumps(episode)[:80]}')
    return ActRequest(observations, episode, explain, single)


def _too_large(most: int) -> Refused:
    return Refused(
        413, f"expected a body of at most {most:,} bytes: send fewer observations, or ask for a larger --max-body"
    )


@lru_cache(256)
def _check_site(host: str, origin: str) -> None:
    """Refuse what a page of another site asks of a server on this machine, by its address or by a name that leads here.

    Args:
        host: the header; "" where there is none, as no browser sends it.
        origin: of the page that asks; "" where none does.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
        local = name in ("", "localhost") or ipaddress.ip_address(name).is_loopback
    except ValueError:
        local = False
    try:
        page = urlsplit(origin).netloc
    except ValueError:
        page = None
    if not local:
        raise Refused(421, f'expected the header Host to name this machine (127.0.0.1, localhost), got "{host[:80]}"')
    if origin and page != host:
        raise Refused(403, f'a page of another site, "{origin[:80]}", may not ask a server without a token')


def _as_refusal(error: Exception) -> Refused:
    if isinstance(error, Refused):
        return error
    if isinstance(error, BitrlError):
        return Refused(422, str(error))
    if isinstance(error, HTTPException):  # the router's
        said = "no such path: see /openapi.json" if error.status_code == 404 else f"{error.detail}: see /openapi.json"
        return Refused(error.status_code, said, error.headers)
    tell(f"bitrl serve: unexpected error, please report it: {cause(error)}")
    return Refused(500, "unexpected error in the server: tell who runs it")


def as_json(explanation: Explanation) -> dict[str, Any]:
    """An explanation as plain data, without its action; parts without what they do not have."""
    parts = [attrs.asdict(part, filter=lambda _, value: value is not None) for part in explanation.parts]
    return {"text": explanation.text, "parts": parts}


def _json(data: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    content = json.dumps(data, separators=(",", ":"), allow_nan=False).encode()
    return Response(content, status, headers, "application/json")
