"""`cd4lm chat`, in process and against a server."""

from __future__ import annotations

import io

import pytest
from absl import flags
from absl.testing import flagsaver

import cd4lm_jax as cd
from cd4lm_jax import bundled
from cd4lm_jax.commands import chat
from cd4lm_jax.serving.client import Client
from cd4lm_jax.settings.flags import take_dotted
from tests.serving.servers import DECODE, served, small_model

pytestmark = pytest.mark.slow


def answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str, said: str
) -> str:
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    with flagsaver.flagsaver():
        flags.FLAGS(take_dotted(["chat", *arguments]))
        chat.main()
    return capsys.readouterr().out


def test_turns_are_one_conversation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = answers(monkeypatch, capsys, said="3+4\n5+5\n/new\n\n3+4\n")
    model = cd.load(bundled.teacher())
    first = cd.decode(model, "3+4", gen_length=64).text[0]
    turns = [("user", "3+4"), ("assistant", first), ("user", "5+5")]
    talk = [{"role": role, "content": content} for role, content in turns]
    second = cd.decode(model, talk, gen_length=64).text[0]
    assert out.count(first) >= 2
    assert second in out


def test_a_server_answers_as_it_would_anybody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with served() as server:
        out = answers(
            monkeypatch,
            capsys,
            f"--server={server.url}",
            "--rule.threshold=0.5",
            "--max_passes=3",
            said="hello\n" + "word " * 300 + "\nhello\n",
        )
    rule = cd.ConfidenceAdaptive(threshold=0.5)
    alone = cd.decode(small_model(), "hello", DECODE, rule=rule, max_passes=3)
    assert alone.text[0].split()[0] in out
    assert f"{alone.nfe[0]} passes" in out
    assert "error: " in out


def test_no_server_is_one_line() -> None:
    with pytest.raises(OSError, match=r"no server at http://127\.0\.0\.1:1/v1"):
        Client("http://127.0.0.1:1")
