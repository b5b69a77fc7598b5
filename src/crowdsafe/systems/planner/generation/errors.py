"""What a language model's service does wrong, as far as a plan has to tell it apart."""

from __future__ import annotations

from crowdsafe.errors import CrowdsafeError

__all__ = [
    "UpstreamBadAnswer",
    "UpstreamError",
    "UpstreamRateLimited",
    "UpstreamRefused",
    "UpstreamUnavailable",
]


class UpstreamError(CrowdsafeError):
    """The language model's service gave no usable answer; try again later."""

    status = 503
    problem_type = "upstream"
    title = "Language model failing"


class UpstreamRateLimited(UpstreamError):
    """The language model's service has had too many requests; wait, then try again."""

    problem_type = "upstream-rate-limited"
    title = "Language model busy"


class UpstreamUnavailable(UpstreamError):
    """The language model's service does not answer, or fails; try again later."""

    problem_type = "upstream-unavailable"
    title = "Language model unavailable"


class UpstreamBadAnswer(UpstreamError):
    """The language model's answer is not what was asked for; try again."""

    status = 502
    problem_type = "upstream-bad-answer"
    title = "Language model's answer unusable"


class UpstreamRefused(UpstreamError):
    """The language model's service refuses the request for good; the operator has to check the
    planner's key, address and model."""

    status = 502
    problem_type = "upstream-refused"
    title = "Language model refuses"
