"""Why a page says no: the status, a code for the log, and the words."""

from __future__ import annotations

from typing import Final


class Refused(Exception):
    """A page, or a call of one, is refused. `retry_after_s`: told if it is not 0."""

    def __init__(self, status: int, code: str, text: str, retry_after_s: float = 0.0) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.text = text
        self.retry_after_s = retry_after_s


TITLES: Final = {
    400: "That cannot be read",
    401: "Log in first",
    403: "Not from here",
    404: "There is nothing here",
    405: "That cannot be done here",
    408: "That took too long",
    413: "That is too much",
    429: "Too many attempts",
    500: "Something broke on our side",
    503: "Not right now",
}


def logged_out() -> Refused:
    """Nobody is logged in, or no longer."""
    return Refused(401, "logged_out", "Your session is over. Log in, and do it again.")


def forged() -> Refused:
    """The request was not sent by a page that this gateway gave this browser."""
    return Refused(
        403,
        "form_forged",
        "This did not come from a page that this gateway gave your browser, or that page was too old. "
        "Nothing was changed. Load the page again; it needs cookies.",
    )


def no_page() -> Refused:
    """There is nothing under this address, or nothing for this visitor."""
    return Refused(404, "not_found", "The address is wrong, or what was here is gone.")


def unreadable(text: str = "This is not a form as this gateway's pages send it.") -> Refused:
    """The body of a request is not a form."""
    return Refused(400, "invalid_form", text)


def too_often(retry_after_s: float) -> Refused:
    """Somebody tries more than they may."""
    return Refused(429, "rate_limit_exceeded", "Wait a little before you try again.", retry_after_s)


def too_busy() -> Refused:
    """More people log in than can be served."""
    return Refused(503, "overloaded", "Many people log in right now. Try again in some seconds.", 5.0)
