"""class Problem: the error response to a request."""

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
    """A response other than 200.

    Parameters
    ----------
    status : int
        HTTP status.
    message : str
        Says what was found, what was expected and what to do; never quotes the request's texts.
    param : str, optional
        Name of the invalid field.
    code : str, optional
        Error code, for programs.
    retry_after_s : int, optional
        Seconds after which to try again.
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
        """The type that OpenAI's API gives errors of this status."""
        return _TYPES[self.status]
