"""The `openai` package, as a server's users have it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

openai = pytest.importorskip("openai")

import cd4lm_jax as cd  # noqa: E402
from tests.serving.servers import DECODE, Served, served, small_model  # noqa: E402

pytestmark = pytest.mark.slow

QUESTION = [{"role": "user", "content": "Amy has 5 pens."}]


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as found:
        yield found


@pytest.fixture
def client(server: Served) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def test_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["small"]
    assert client.models.retrieve("small").owned_by == "cd4lm_jax"


def test_an_answer_and_its_stream(client: Any) -> None:
    alone = cd.decode(small_model(), [QUESTION], DECODE)
    whole = client.chat.completions.create(model="small", messages=QUESTION)
    assert whole.choices[0].message.content == alone.text[0]
    assert whole.usage.passes == alone.nfe[0]
    assert whole.usage.completion_tokens == alone.trajectory.length[0]
    stream = client.chat.completions.create(
        model="small", messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == alone.text[0]
    assert chunks[-1].usage == whole.usage
    ends = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert ends == [*[None] * (len(ends) - 1), whole.choices[0].finish_reason]


def test_two_answers_are_those_of_a_list(client: Any) -> None:
    options: dict[str, Any] = {"temperature": 1.0, "seed": 7}
    found = client.chat.completions.create(model="small", messages=QUESTION, n=2, **options)
    alone = cd.decode(small_model(), [QUESTION] * 2, DECODE, **options)
    assert [choice.message.content for choice in found.choices] == alone.text
    assert alone.text[0] != alone.text[1]


def test_logprobs_are_the_confidence(client: Any) -> None:
    found = client.chat.completions.create(model="small", messages=QUESTION, logprobs=True)
    row = cd.decode(small_model(), [QUESTION], DECODE).trajectory
    content = found.choices[0].logprobs.content
    assert len(content) == row.length[0] > 0
    for at, token in enumerate(content):
        assert math.exp(token.logprob) == pytest.approx(row.confidence[0, at], rel=1e-4)
        assert bytes(token.bytes) == token.token.encode()


def test_completions(client: Any) -> None:
    model = small_model()
    assert model.tokenizer is not None
    texts = ["Amy has 5 pens.", "Ben"]
    found = client.completions.create(model="small", prompt=texts, logprobs=0)
    alone = cd.decode(model, [model.text_ids(text) for text in texts], DECODE)
    assert [choice.text for choice in found.choices] == alone.text
    for choice in found.choices:
        assert "".join(choice.logprobs.tokens) == choice.text


def test_our_own_settings(client: Any) -> None:
    own = {"threshold": 0.3, "max_passes": 2}
    found = client.chat.completions.create(
        model="small", messages=QUESTION, extra_body={"diffusion": own}
    )
    rule = cd.ConfidenceAdaptive(threshold=0.3)
    alone = cd.decode(small_model(), [QUESTION], DECODE, rule=rule, max_passes=2)
    assert found.choices[0].message.content == alone.text[0]
    assert found.usage.passes == alone.nfe[0] <= 2


def test_errors_are_the_clients_own(client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="other", messages=QUESTION)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model="small", messages=QUESTION, top_p=3.0)
    assert wrong.value.param == "top_p"
