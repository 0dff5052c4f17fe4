"""class Problem: a request that is refused, with what its client is told."""

from __future__ import annotations

__all__ = ["Problem"]

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


class Problem(Exception):
    """An answer that isn't 200.

    Parameters
    ----------
    status : int
        Of HTTP.
    message : str
        What was found, what was expected, what to do; never a text of the request.
    param : str, optional
        The field that is wrong.
    code : str, optional
        A word for programs.
    retry_after_s : int, optional
        When to come again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    @property
    def type(self) -> str:
        """The word that OpenAI's errors have for the status."""
        return _TYPES[self.status]
