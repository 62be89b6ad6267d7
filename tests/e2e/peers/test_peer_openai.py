"""The real `openai` client through the real router, with the experiment file of docs/how-to/language-models.md.

Backends are `support_openai_stub`: real HTTP with answers on a schedule. Streaming is asserted by order: a piece is
held back at the backend's gate until the client says that it has the one before.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from openai import APIConnectionError, NotFoundError, OpenAI, Stream
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam
from tests.e2e.support_openai_stub import OpenAIStub, Schedule, running_openai_stub
from tests.e2e.support_pages import files_of
from tests.e2e.support_router import running_router

from fairtrial.assign.assignment import Assigner
from fairtrial.model.parse import check_experiment, parse_experiment
from fairtrial.model.snapshot import first_allocations

SCHEDULES = {
    "base-8b": Schedule(pieces=("Both", " sides", " are", " heard.")),
    "next-8b": Schedule(pieces=("Nobody", " knows", " the", " verdict", " beforehand."), gated_from=1),
    "assistant": Schedule(
        pieces=("One", " after", " the", " other."), delays_s=(0.01, 0.03, 0.0, 0.02), finish_reason="length"
    ),
}
QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is a fair trial?"}]
FILE = files_of("language-models")["experiment.yaml"]


@dataclass(frozen=True, slots=True)
class Bench:
    """A router at `url` in front of two backends."""

    url: str
    llm: OpenAIStub
    llm_next: OpenAIStub

    def client(self, **headers: str) -> OpenAI:
        return OpenAI(
            base_url=f"{self.url}/v1", api_key="not-a-secret", max_retries=0, timeout=20.0, default_headers=headers
        )


def text_for(llm: OpenAIStub, llm_next: OpenAIStub) -> str:
    return FILE.replace("http://127.0.0.1:8701", llm.url).replace("http://127.0.0.1:8702", llm_next.url)


@pytest.fixture(scope="module")
def shared_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with (
        running_openai_stub(SCHEDULES) as llm,
        running_openai_stub(SCHEDULES) as llm_next,
        running_router(text_for(llm, llm_next), tmp_path_factory.mktemp("openai")) as router,
    ):
        yield Bench(router.url, llm, llm_next)


@pytest.fixture
def bench(shared_bench: Bench) -> Bench:
    shared_bench.llm.reset()
    shared_bench.llm_next.reset()
    return shared_bench


def unit_in(experiment: str, variant: str) -> str:
    """A user whom the experiment's own arithmetic puts into the variant."""
    file = parse_experiment(FILE)
    assigner = Assigner(file.experiments[experiment], first_allocations(file, started_at=0)[experiment])
    return next(f"user-{n}" for n in range(1000) if assigner.assign(f"user-{n}").variant == variant)


def read_all(stream: Stream[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def test_the_language_model_page_s_experiment_file_has_no_problem() -> None:
    """What readers copy must not be answered with warnings."""
    _, problems = check_experiment(FILE, name="experiment.yaml")
    assert problems == ()


def test_a_completion_is_that_of_the_variant_s_model(bench: Bench) -> None:
    """Unit from a header: control and treatment differ by server and by model name, and by nothing else."""
    for variant, backend, model in (("control", bench.llm, "base-8b"), ("treatment", bench.llm_next, "next-8b")):
        backend.open_gate()
        with bench.client(**{"x-user-id": unit_in("next-model", variant)}) as client:
            raw = client.chat.completions.with_raw_response.create(
                model="assistant", messages=QUESTION, temperature=0.7, seed=11
            )
        completion = raw.parse()
        assert completion.choices[0].message.content == "".join(SCHEDULES[model].pieces)
        assert completion.usage is not None
        assert completion.usage.completion_tokens == len(SCHEDULES[model].pieces)
        assert raw.headers["x-experiment-id"] == "next-model"
        assert raw.headers["x-variant"] == variant
        seen = backend.last_seen()
        assert seen.body == {"model": model, "messages": QUESTION, "temperature": 0.7, "seed": 11}
        assert seen.headers["authorization"] == "Bearer not-a-secret"


def test_a_variant_changes_sampling_and_removes_a_field_of_the_body(bench: Bench) -> None:
    """Unit from the body's `user`; RFC 7396: values are set, null removes, the rest stays as the caller sent it."""
    for variant, temperature, bias in (("control", 1.0, {"50256": -100}), ("cool", 0.2, None)):
        user = unit_in("cooler-summaries", variant)
        with bench.client() as client:
            raw = client.chat.completions.with_raw_response.create(
                model="summaries", messages=QUESTION, temperature=1.0, logit_bias={"50256": -100}, user=user
            )
        expected = {"model": "base-8b", "messages": QUESTION, "temperature": temperature, "user": user}
        assert bench.llm.last_seen().body == (expected if bias is None else {**expected, "logit_bias": bias})
        assert raw.headers["x-variant"] == variant


def test_a_variant_changes_the_system_prompt_of_the_responses_api(bench: Bench) -> None:
    """`instructions` is a field of its own, so a merge patch can set it; the conversation is left alone."""
    long_prompt = "You are a careful and very thorough assistant."
    for variant, prompt in (("control", long_prompt), ("short", "Answer in one sentence.")):
        with bench.client() as client:
            response = client.responses.create(
                model="base-8b", input="Why?", instructions=long_prompt, user=unit_in("shorter-prompt", variant)
            )
        assert response.instructions == prompt
        assert response.output_text == "Both sides are heard."
        assert bench.llm.last_seen().body["input"] == "Why?"


def test_the_first_piece_of_a_stream_arrives_before_the_last_is_sent(bench: Bench) -> None:
    """Nothing is held back: the backend sends piece 1 only after the client has said that it has piece 0."""
    backend, timeline = bench.llm_next, bench.llm_next.timeline
    with bench.client(**{"x-user-id": unit_in("next-model", "treatment")}) as client:
        stream = client.chat.completions.create(
            model="assistant", messages=QUESTION, stream=True, stream_options={"include_usage": True}
        )
        chunks = []
        for number, chunk in enumerate(stream):
            timeline.note(f"client: got {number}")
            chunks.append(chunk)
            backend.open_gate()
    events = timeline.events
    assert events.index("client: got 0") < events.index("backend: sent 1") < events.index("backend: sent 4")
    assert (
        "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Nobody knows the verdict beforehand."
    )
    assert [c.choices[0].finish_reason for c in chunks if c.choices] == [None] * 5 + ["stop"]
    usage = chunks[-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (7, 5, 12)


def test_an_interrupted_stream_stops_the_model_and_is_recorded(tmp_path: Path) -> None:
    """A client that hangs up after one piece: the backend's connection is closed while it still waits at its gate."""
    with running_openai_stub(SCHEDULES) as llm, running_openai_stub(SCHEDULES) as llm_next:
        with running_router(text_for(llm, llm_next), tmp_path) as router:
            unit = unit_in("next-model", "treatment")
            with Bench(router.url, llm, llm_next).client(**{"x-user-id": unit}) as client:
                stream = client.chat.completions.create(model="assistant", messages=QUESTION, stream=True)
                assert next(iter(stream)).choices[0].delta.content == "Nobody"
                stream.close()
                llm_next.timeline.wait_for("backend: cancelled")
            router.stop()
            (record,) = router.records()
        assert "backend: sent 1" not in llm_next.timeline.events
    assert (record.experiment, record.variant, record.status) == ("next-model", "treatment", 200)
    assert record.bytes_out > 0
    assert record.reason, "a stream that was cut short must not look like a whole one"


def test_a_client_that_gives_up_waiting_stops_the_model(bench: Bench) -> None:
    """No byte of the answer has come yet: the router does not let the model work on for nobody."""
    body, unit = b'{"model": "assistant"}', unit_in("next-model", "treatment")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nx-user-id: {unit}\r\nContent-Length: {len(body)}\r\n\r\n"
    port = httpx.URL(bench.url).port
    assert port is not None
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head.encode() + body)
        bench.llm_next.timeline.wait_for("backend: asked")
    bench.llm_next.timeline.wait_for("backend: cancelled")
    assert "backend: finished" not in bench.llm_next.timeline.events


def test_many_streams_at_once_do_not_mix(bench: Bench) -> None:
    """24 users stream together over their own connections; everybody gets their own variant's words, whole."""
    bench.llm_next.open_gate()

    async def answer_to(unit: str) -> tuple[str, str]:
        def ask() -> tuple[str, str]:
            with bench.client(**{"x-user-id": unit}) as client:
                raw = client.chat.completions.with_raw_response.create(
                    model="assistant", messages=QUESTION, stream=True
                )
                return raw.headers["x-variant"], read_all(raw.parse())

        return await asyncio.to_thread(ask)

    async def all_answers() -> list[tuple[str, str]]:
        return await asyncio.gather(*(answer_to(f"user-{number}") for number in range(24)))

    answers = set(asyncio.run(all_answers()))
    assert answers == {("control", "Both sides are heard."), ("treatment", "Nobody knows the verdict beforehand.")}


def test_a_request_without_its_unit_goes_to_the_stable_model_as_it_is(bench: Bench) -> None:
    """Not enrolled: nothing is patched. Its pieces come with pauses; all arrive, and the finish reason with them."""
    with bench.client() as client:
        raw = client.chat.completions.with_raw_response.create(model="assistant", messages=QUESTION, stream=True)
        chunks = list(raw.parse())
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "One after the other."
    assert chunks[-1].choices[0].finish_reason == "length"
    assert bench.llm.last_seen().body == {"model": "assistant", "messages": QUESTION, "stream": True}
    assert raw.headers["x-model-version"] == "2026-10"
    assert "x-variant" not in raw.headers


def test_a_user_stays_in_one_variant_from_call_to_call(bench: Bench) -> None:
    """Both ways of naming the unit, mixed over many calls of one connection."""
    bench.llm_next.open_gate()
    met: dict[str, set[str]] = {}
    with bench.client() as client:
        for number in range(60):
            user = f"user-{number % 12}"
            chat = client.chat.completions.with_raw_response
            by_header = chat.create(model="assistant", messages=QUESTION, extra_headers={"x-user-id": user})
            by_body = chat.create(model="summaries", messages=QUESTION, user=user)
            met.setdefault(f"{user} by header", set()).add(by_header.headers["x-variant"])
            met.setdefault(f"{user} by body", set()).add(by_body.headers["x-variant"])
    assert {len(variants) for variants in met.values()} == {1}
    assert len(set().union(*met.values())) == 3


def test_the_backend_s_error_reaches_the_client_as_openai_s_own(bench: Bench) -> None:
    """404 with OpenAI's body: the SDK raises its own error with the backend's code, not ours."""
    with bench.client() as client, pytest.raises(NotFoundError) as refused:
        client.responses.create(model="gone-8b", input="Anybody there?")
    assert refused.value.code == "model_not_found"
    assert "gone-8b" in refused.value.message


def test_a_model_that_no_endpoint_names_is_refused_by_the_router(bench: Bench) -> None:
    """Both chat endpoints match by the body's `model`: another one is nobody's, and no backend hears of it."""
    with bench.client() as client, pytest.raises(NotFoundError) as refused:
        client.chat.completions.create(model="somebody-else-s", messages=QUESTION)
    assert refused.value.response.headers["content-type"] == "application/problem+json"
    assert bench.llm.seen == []
    assert bench.llm_next.seen == []


def test_a_stream_that_breaks_is_cut_for_the_client_and_not_patched_up(tmp_path: Path) -> None:
    """The model dies after two pieces: those are kept, the rest never comes, and the SDK can tell."""
    breaking = {"next-8b": Schedule(pieces=("Half", " an", " answer"), breaks_at=2)}
    with running_openai_stub(SCHEDULES) as llm, running_openai_stub(breaking) as llm_next:
        with running_router(text_for(llm, llm_next), tmp_path) as router:
            unit = unit_in("next-model", "treatment")
            pieces: list[str | None] = []
            with Bench(router.url, llm, llm_next).client(**{"x-user-id": unit}) as client:
                stream = client.chat.completions.create(model="assistant", messages=QUESTION, stream=True)
                with pytest.raises(APIConnectionError):
                    pieces.extend(chunk.choices[0].delta.content for chunk in stream)
                assert pieces == ["Half", " an"]
            router.stop()
            (record,) = router.records()
        assert llm.seen == []
    assert (record.variant, record.served_model, record.outcome) == ("treatment", "llm-next", "error")
    assert record.reason


def test_a_dead_backend_s_users_get_the_stable_model_s_stream(tmp_path: Path) -> None:
    """Fallback before the first byte: the stable model gets what the caller sent, the record says who served whom."""
    with running_openai_stub(SCHEDULES) as llm:
        with running_openai_stub({}) as llm_next:
            text = text_for(llm, llm_next)
        with running_router(text, tmp_path) as router:
            unit = unit_in("next-model", "treatment")
            with Bench(router.url, llm, llm_next).client(**{"x-user-id": unit}) as client:
                raw = client.chat.completions.with_raw_response.create(
                    model="assistant", messages=QUESTION, stream=True
                )
                assert read_all(raw.parse()) == "One after the other."
            router.stop()
            (record,) = router.records()
    assert (raw.headers["x-variant"], raw.headers["x-model-version"]) == ("treatment", "2026-10")
    assert (record.variant, record.assigned_model, record.served_model) == ("treatment", "llm-next", "llm")
    assert record.outcome == "fallback"
