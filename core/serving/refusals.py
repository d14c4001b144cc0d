"""Why a request is not answered with an action: HTTP status codes, each with a line for people."""

from __future__ import annotations

from collections.abc import Mapping

from bitrl.core.errors import BitrlError

SOON = {"Retry-After": "1"}
"""The header that asks a client to try again in a second."""


class Refused(BitrlError):
    """A request that is answered with an error.

    Attributes:
        status: the HTTP status code.
        headers: of the answer, beside those of every answer.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
