"""An order in a shop changes many tables: what the race is about is shown first."""

from __future__ import annotations

from crowdsafe.find.model import Finding, Run, Verdict
from crowdsafe.find.report.outcomes import comparison
from tests.find.report.samples import reply, run, table


def test_what_no_order_gives_comes_first_and_of_that_the_named_table() -> None:
    def one(orders: int, allocated: int, mails: int) -> Run:
        state = {f"a{n}": table("id n", (1, orders)) for n in range(40)}
        state["stock"] = table("id allocated", (1, allocated))
        state["mails"] = table("id", *[(n,) for n in range(mails)])
        return run([], state, reply("a", 302, None), reply("a", 302, None))

    finding = Finding(("a", "b"), Verdict.RACE, run=one(1, 2, 2), tables=("stock", "mails"))
    finding.serial = {(0, 1): one(1, 1, 1), (1, 0): one(0, 1, 1)}

    found = comparison(finding)

    assert found is not None
    shown = [(line.what, line.odd) for line in found.lines]
    assert shown[:2] == [("stock #1 allocated", True), ("mails: rows", True)]
    assert [what for what, _ in shown[2:4]] == ["answer of A", "answer of B"]
    assert len(shown) <= 16
