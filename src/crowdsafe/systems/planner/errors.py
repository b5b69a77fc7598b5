"""The planner's refusals: each names what happened, what to do next, and the data for it."""

from __future__ import annotations

from crowdsafe.errors import AlreadyMoved, CrowdsafeError, KeyReused, NotAuthenticated, Overloaded


class BadSignature(NotAuthenticated):
    """The payment event is not signed by the shared secret, or too long ago; nothing was done.
    Send `X-Payment-Signature: t=<unix seconds>,v1=<hex>` over timestamp, dot and raw body."""

    problem_type = "bad-signature"
    title = "Bad signature"


class PaymentsNotConfigured(Overloaded):
    """No payment secret is configured, so no event can be trusted; set
    CROWDSAFE_PLANNER_PAYMENT_SECRET and have the event delivered again."""

    problem_type = "payments-not-configured"
    title = "Payments not configured"


class EventReused(KeyReused):
    """This payment event id came before with other contents; the first contents stay in force."""

    problem_type = "payment-event-reused"
    title = "Payment event id reused"


class AlreadyAssigned(AlreadyMoved):
    """This payment event is not parked; `current` says what became of it."""

    problem_type = "payment-already-assigned"
    title = "Already assigned"


class GenerationFailed(CrowdsafeError):
    """The plan could not be made; nothing was charged. Ask again in a while."""

    status = 503
    problem_type = "generation-failed"
    title = "Plan not made"


class JobCancelled(CrowdsafeError):
    """This job was cancelled and nothing was charged; ask anew if you still want the plan."""

    status = 409
    problem_type = "job-cancelled"
    title = "Job cancelled"


class JobShared(CrowdsafeError):
    """Others asked for the same public plan and wait for this job, so it goes on to its end."""

    status = 409
    problem_type = "job-shared"
    title = "Others wait for this job"


class JobEnded(AlreadyMoved):
    """This job has ended, so it cannot be cancelled; `current` says how, `plan_id` where to."""

    problem_type = "job-ended"
    title = "The job has ended"
