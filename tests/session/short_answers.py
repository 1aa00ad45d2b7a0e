"""What the protocol keeps instead of asking again is what asking would give.

While only business goes on (`SessionState.attention` is false), three questions have a short
answer: may we sign, does a frame wait for the chain, is the next key due. Here each is asked the
long way as well.
"""

from __future__ import annotations

import pytest

from psymm.session.chain_facts import Citation
from psymm.session.protocol import SessionState, SessionStatus, SessionView, holding, keys, signing


def check_short_answers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Hold every short answer from now on against the long one. Returns where those are counted
    that spared it."""
    signs_freely, number_due = signing.signs_freely, keys.number_due
    short = [0]

    def checked_freely(s: SessionState, now: int) -> bool:
        free = signs_freely(s, now)
        if free:
            short[0] += 1
            assert s.error is None
            assert s.status is not SessionStatus.CLOSED
            assert signing.refuses_to_sign(s, now) is None
        return free

    def checked_due(s: SessionState) -> bool:
        due, found = number_due(s), keys.due(s)
        assert due is (found is not None and s.record.heads[s.lane].seq == found[1])
        return due

    def checked_cited(view: SessionView) -> Citation | None:
        found = holding.cited(view.state)
        assert view.state.attention or found is None
        return found

    monkeypatch.setattr(signing, "signs_freely", checked_freely)
    monkeypatch.setattr(keys, "number_due", checked_due)
    monkeypatch.setattr(SessionView, "cited", property(checked_cited))
    return short
