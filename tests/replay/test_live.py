"""A decode that goes on, on the terminal."""

from __future__ import annotations

from cd4lm_jax.decoding.reason import Reason
from cd4lm_jax.replay.live import LiveDecode


def test_what_is_committed_stands_in_its_place_and_the_rest_is_masked() -> None:
    live = LiveDecode(4)
    assert live.view().plain == "pass 0, 0 committed\n\u2591\u2591\u2591\u2591"
    live.commit(1, "b", at=1, confidence=0.9, reason=Reason.RULE)
    live.commit(3, "<|endoftext|>", at=2, confidence=0.6, reason=Reason.MINIMUM)
    assert live.view().plain == "pass 2, 2 committed\n\u2591b\u2591<EOS>"
    assert live.passes == 2


def test_what_the_last_pass_committed_is_inverted() -> None:
    live = LiveDecode(2)
    live.commit(0, "a", at=1, confidence=1.0, reason=Reason.RULE)
    live.commit(1, "b", at=2, confidence=1.0, reason=Reason.RULE)
    view = live.view()
    styles = {view.plain[span.start : span.end]: span.style for span in view.spans}
    assert getattr(styles["b"], "reverse", None)
    assert not getattr(styles["a"], "reverse", None)


def test_control_characters_are_not_obeyed() -> None:
    live = LiveDecode(1)
    live.commit(0, "\x1b[2J", at=1, confidence=1.0, reason=Reason.RULE)
    assert "\x1b" not in live.view().plain
