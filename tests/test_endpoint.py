"""The endpoint client against a real server on loopback that misbehaves on request."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import orjson
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from safer_steer.actors.chat import Message, Role, Sampling
from safer_steer.actors.endpoint import (
    KEY_VARIABLE,
    Endpoint,
    EndpointModel,
    ImageFragments,
    Limits,
    RetryPolicy,
    check_base_url,
    is_loopback,
)  # fmt: skip
from safer_steer.actors.endpoint.body import request_body
from safer_steer.actors.endpoint.dialect import Dialect, learn
from safer_steer.actors.endpoint.reply import Fault, failure, read_completion, read_error
from safer_steer.actors.endpoint.retry import retry_after
from safer_steer.actors.verdict_parsing import Reply
from safer_steer.dialogue import FinishReason, ImageRef
from safer_steer.errors import ConfigError, ContextOverflow, EndpointError, ImageError

KEY = "sk-very-secret-0123456789"
HELLO = [Message(role=Role.USER, text="hello")]
QUICK = RetryPolicy(attempts=4, first_wait=0.01, longest_wait=0.02, longest_asked=1.0)
Handler = Callable[[web.Request, dict[str, Any], int], Awaitable[web.StreamResponse]]


class Grade(Reply):
    rationale: str
    safety: Annotated[int, Field(ge=-3, le=3)]


def completion(content: object = "fine", finish: str = "stop", **message: object) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
    return {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}


def refused(message: str, status: int = 400, **more: object) -> web.Response:
    return web.json_response({"error": {"message": message, **more}}, status=status)


class Server:
    """Calls `handler(request, body, number)`, number counting from 1, and keeps every body it was sent."""

    def __init__(self, handler: Handler) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self._handler = handler

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read() or b"{}")
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        return await self._handler(request, body, len(self.bodies))


@asynccontextmanager
async def serving(
    handler: Handler, *, read: Callable[[ImageRef], bytes] = lambda ref: b"", **settings: Any
) -> AsyncIterator[tuple[Server, EndpointModel]]:
    server = Server(handler)
    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/v1/{tail:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    limits = settings.pop("limits", Limits()).model_copy(update={"retry": settings.pop("retry", QUICK)})
    endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", limits=limits, **{"environ": {}, **settings})
    model = EndpointModel(endpoint, "m", ImageFragments(read))
    try:
        async with asyncio.timeout(20):
            yield server, model
    finally:
        await model.aclose()
        await runner.cleanup()


async def ok(request: web.Request, body: dict[str, Any], number: int) -> web.StreamResponse:
    return web.json_response(completion())


def at_first(fault: Handler) -> Handler:
    async def handler(request: web.Request, body: dict[str, Any], number: int) -> web.StreamResponse:
        return await (fault if number == 1 else ok)(request, body, number)

    return handler


async def busy(request: web.Request, body: dict[str, Any], number: int) -> web.StreamResponse:
    return web.Response(status=429, headers={"Retry-After": "0.05"})


async def broken(request: web.Request, body: dict[str, Any], number: int) -> web.StreamResponse:
    return web.Response(status=500, text="boom")


async def reset(request: web.Request, body: dict[str, Any], number: int) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"choices": [')
    assert request.transport is not None
    request.transport.abort()
    return response


async def malformed(request: web.Request, body: dict[str, Any], number: int) -> web.StreamResponse:
    return web.Response(body=orjson.dumps(completion())[:-30])


async def not_a_completion(request: web.Request, body: dict[str, Any], number: int) -> web.StreamResponse:
    return web.json_response({"object": "something else"})


async def hang(request: web.Request, body: dict[str, Any], number: int) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


@pytest.mark.anyio
@pytest.mark.parametrize("fault", [busy, broken, reset, malformed, not_a_completion, hang])
async def test_a_passing_fault_is_retried_once_and_answered_once(fault: Handler) -> None:
    async with serving(at_first(fault), limits=Limits(timeout=0.5)) as (server, model):
        answer = await model.complete(HELLO, Sampling())
    assert (answer.text, answer.finish, answer.usage.prompt_tokens) == ("fine", FinishReason.STOP, 7)
    assert len(server.bodies) == 2
    assert server.bodies[0] == server.bodies[1]


@pytest.mark.anyio
@pytest.mark.parametrize("fault", [busy, broken, reset, malformed])
async def test_the_attempt_budget_is_kept_and_the_error_names_the_address(fault: Handler) -> None:
    async with serving(fault) as (server, model):
        with pytest.raises(EndpointError, match=r"http://127.0.0.1:\d+/v1: no answer from 'm' after 4 attempts"):
            await model.complete(HELLO, Sampling())
    assert len(server.bodies) == QUICK.attempts


@pytest.mark.anyio
async def test_every_request_of_many_is_answered_once_within_the_limit() -> None:
    now, most = 0, 0

    async def handler(request: web.Request, body: dict[str, Any], number: int) -> web.StreamResponse:
        nonlocal now, most
        now, most = now + 1, max(most, now + 1)
        await asyncio.sleep(0.005)
        now -= 1
        fault = {0: busy, 1: broken, 2: malformed}.get(number % 10)
        if fault is not None:
            return await fault(request, body, number)
        return web.json_response(completion(body["messages"][0]["content"]))

    retry = RetryPolicy(attempts=9, first_wait=0.01, longest_wait=0.02)
    async with serving(handler, retry=retry, limits=Limits(concurrency=5)) as (server, model):
        texts = [f"question {i}" for i in range(60)]
        asked = [model.complete([Message(role=Role.USER, text=text)], Sampling()) for text in texts]
        answers = await asyncio.gather(*asked)
    assert [answer.text for answer in answers] == texts
    assert most == 5
    assert 60 < len(server.bodies) < 120


@pytest.mark.anyio
@pytest.mark.parametrize("size", [700, 1_600_000])
async def test_images_arrive_intact_in_order_and_are_encoded_once(size: int) -> None:
    blobs = {hashlib.sha256(data).hexdigest(): data for data in (b"\x89PNG" * (size // 4), bytes(range(256)) * 3)}
    reads: list[str] = []

    def read(ref: ImageRef) -> bytes:
        reads.append(ref.sha256)
        return blobs[ref.sha256]

    refs = tuple(ImageRef(sha256=digest, media_type="image/png", width=1, height=1) for digest in blobs)
    messages = [Message(role=Role.SYSTEM, text="s"), Message(role=Role.USER, text='what\'s "this"?\n', images=refs)]
    async with serving(ok, read=read) as (server, model):
        await asyncio.gather(*[model.complete(messages, Sampling()) for _ in range(3)])
    assert sorted(reads) == sorted(blobs)
    for body in server.bodies:
        assert body["messages"][0] == {"role": "system", "content": "s"}
        *images, text = body["messages"][1]["content"]
        assert text == {"type": "text", "text": 'what\'s "this"?\n'}
        urls = [image["image_url"]["url"] for image in images]
        assert [base64.b64decode(url.removeprefix("data:image/png;base64,")) for url in urls] == list(blobs.values())


@pytest.mark.anyio
async def test_an_unreadable_image_is_an_error_and_nothing_is_sent() -> None:
    def read(ref: ImageRef) -> bytes:
        raise ImageError("gone", file="x.png")

    image = ImageRef(sha256="0" * 64, media_type="image/png", width=1, height=1)
    async with serving(ok, read=read) as (server, model):
        with pytest.raises(ImageError):
            await model.complete([Message(role=Role.USER, text="?", images=(image,))], Sampling())
    assert server.bodies == []


@pytest.mark.anyio
async def test_the_image_cache_keeps_within_its_budget() -> None:
    fragments = ImageFragments(lambda ref: bytes(300), budget=1500)
    refs = [ImageRef(sha256=f"{i:064x}", media_type="image/png", width=1, height=1) for i in range(10)]
    for ref in refs:
        await fragments.get(ref)
        assert fragments.size <= 1500
    assert fragments.size > 0
    fragments.close()


@pytest.mark.anyio
async def test_a_schema_is_sent_strict_and_its_reply_comes_back() -> None:
    async def handler(request: web.Request, body: dict[str, Any], number: int) -> web.StreamResponse:
        wanted = body["response_format"]["json_schema"]["schema"]
        assert wanted["required"] == ["rationale", "safety"] and wanted["additionalProperties"] is False
        assert wanted["properties"]["safety"] == {"type": "integer", "minimum": -3, "maximum": 3}
        return web.json_response(completion('{"rationale": "r", "safety": 2}'))

    async with serving(handler) as (server, model):
        answer = await model.complete(HELLO, Sampling(seed=5, max_tokens=9), Grade)
    assert answer.text == '{"rationale": "r", "safety": 2}'
    body = server.bodies[0]
    assert body["response_format"]["json_schema"]["strict"] is True
    assert (body["model"], body["max_tokens"], body["temperature"], body["seed"]) == ("m", 9, 0.0, 5)


@pytest.mark.anyio
async def test_a_servers_dialect_is_learned_once() -> None:
    async def choosy(request: web.Request, body: dict[str, Any], number: int) -> web.StreamResponse:
        if "max_tokens" in body:
            told = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            return refused(told, param="max_tokens", code="unsupported_parameter")
        if "temperature" in body:
            return refused("Unsupported value: only the default (1) is supported.", param="temperature")
        if "response_format" in body:
            return refused("response_format is not supported by this server")
        return web.json_response(completion())

    told: list[str] = []
    async with serving(choosy, retry=RetryPolicy(attempts=1)) as (server, model):
        model._notify = told.append
        for _ in range(3):
            answer = await model.complete(HELLO, Sampling(max_tokens=5), Grade)
            assert answer.without == ("temperature", "response_format")
        assert (await model.complete(HELLO, Sampling(max_tokens=5))).without == ("temperature",)
    del server.bodies[-1]
    assert [line.split("'")[1] for line in told] == ["temperature", "response_format"]
    assert len(server.bodies) == 3 + 3
    assert server.bodies[-1] == {
        "model": "m", "messages": [{"role": "user", "content": "hello"}], "max_completion_tokens": 5,
    }  # fmt: skip


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("response", "error", "says"),
    [
        (lambda: refused(f"Incorrect API key provided: {KEY[:6]}*", 401), EndpointError, KEY_VARIABLE),
        (lambda: refused("nope", 404), EndpointError, "no model 'm' here"),
        (lambda: refused("bad image"), EndpointError, "refused the request (HTTP 400): bad image"),
        (lambda: refused("maximum context length is 4096 tokens, max_tokens not supported"), ContextOverflow, "fits"),
        (lambda: refused("x", code="context_length_exceeded"), ContextOverflow, "no longer fits 'm'"),
        (  # llama.cpp's words
            lambda: refused("request (20031 tokens) exceeds the available context size (8192 tokens), try increasing"),
            ContextOverflow,
            "no longer fits 'm'",
        ),
        (  # llama.cpp's words again, of images to a model that reads text
            lambda: refused("image input is not supported - hint: you may need to provide the mmproj", 500),
            EndpointError,
            "image input is not supported",
        ),
        (lambda: refused("pay", 429, code="insufficient_quota"), EndpointError, "no quota left"),
        (lambda: web.Response(status=429, headers={"Retry-After": "3600"}), EndpointError, "wait 3600 s"),
        (
            lambda: web.Response(status=302, headers={"Location": "http://elsewhere.invalid/"}),
            EndpointError,
            "redirects",
        ),
    ],
)
async def test_a_lasting_failure_is_told_at_once(
    response: Callable[[], web.Response], error: type[Exception], says: str
) -> None:
    async def handler(request: web.Request, body: dict[str, Any], number: int) -> web.StreamResponse:
        return response()

    async with serving(handler, environ={KEY_VARIABLE: KEY}) as (server, model):
        with pytest.raises(error) as caught:
            await model.complete(HELLO, Sampling())
    assert says in str(caught.value) and "http://127.0.0.1" in str(caught.value)
    assert len(server.bodies) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("fault", [busy, broken, reset, malformed, hang])
async def test_the_key_is_sent_and_never_told(fault: Handler, caplog: pytest.LogCaptureFixture) -> None:
    async def echoing(request: web.Request, body: dict[str, Any], number: int) -> web.StreamResponse:
        if number == 1:
            return refused(f"you sent {request.headers['Authorization']}", 500)
        return await fault(request, body, number)

    caplog.set_level(logging.DEBUG)
    for attempts in (1, 2):
        settings = {"environ": {KEY_VARIABLE: KEY}, "limits": Limits(timeout=0.3)}
        async with serving(echoing, retry=RetryPolicy(attempts=attempts, first_wait=0.01), **settings) as (
            server,
            model,
        ):
            with pytest.raises(EndpointError) as caught:
                await model.complete(HELLO, Sampling())
            told = [str(caught.value), repr(caught.value), repr(caught.value.__cause__), repr(caught.value.__context__)]
            told += [repr(model), repr(vars(model)), caplog.text]
            assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
        assert KEY not in "".join(told)


@pytest.mark.anyio
async def test_a_key_that_a_gateway_quotes_in_an_answer_is_blotted_out() -> None:
    async def quoting(request: web.Request, body: dict[str, Any], number: int) -> web.StreamResponse:
        return web.json_response(completion(f"Incorrect API key provided: {request.headers['Authorization']}"))

    async with serving(quoting, environ={KEY_VARIABLE: KEY}) as (_, model):
        answer = await model.complete(HELLO, Sampling())
    assert answer.text == "Incorrect API key provided: Bearer ***"


@pytest.mark.parametrize(
    ("status", "passing"),
    [
        (500, True),
        (502, True),
        (507, True),
        (521, True),
        (530, True),
        (501, False),
        (505, False),
        (526, False),
        (418, False),
    ],
)
def test_which_statuses_are_tried_again(status: int, passing: bool) -> None:
    assert isinstance(failure(status, b"", None, base_url="http://h/v1", model="m"), Fault) is passing


@pytest.mark.anyio
async def test_a_connection_that_never_opens_says_so() -> None:
    with socket.socket() as full:  # nobody accepts: once the queue is full, what comes next waits
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(8)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        endpoint = Endpoint(f"http://127.0.0.1:{full.getsockname()[1]}/v1", limits=Limits(connect=0.2), environ={})
        try:
            with pytest.raises(EndpointError, match=r"no connection within 0\.2 s"):
                await endpoint.check()
        finally:
            await endpoint.aclose()
            for one in waiting:
                one.close()


@pytest.mark.anyio
async def test_a_dead_address_is_named_without_waiting() -> None:
    endpoint = Endpoint("http://127.0.0.1:1/v1", environ={})
    model = EndpointModel(endpoint, "m", ImageFragments(lambda ref: b""))
    try:
        async with asyncio.timeout(2):
            with pytest.raises(EndpointError, match=r"http://127\.0\.0\.1:1/v1: cannot connect"):
                await model.complete(HELLO, Sampling())
            with pytest.raises(EndpointError, match=r"http://127\.0\.0\.1:1/v1: cannot connect"):
                await endpoint.check()
    finally:
        await model.aclose()


@pytest.mark.anyio
async def test_check_refuses_a_bad_key_and_accepts_a_server_without_a_model_list() -> None:
    async def locked(request: web.Request, body: dict[str, Any], number: int) -> web.StreamResponse:
        return web.Response(status=401)

    async def bare(request: web.Request, body: dict[str, Any], number: int) -> web.StreamResponse:
        return web.Response(status=404)

    async with serving(locked) as (_, model):
        with pytest.raises(EndpointError, match=KEY_VARIABLE):
            await model._endpoint.check()
    async with serving(bare) as (_, model):
        await model._endpoint.check()


def test_a_key_is_needed_away_from_loopback() -> None:
    with pytest.raises(ConfigError, match=KEY_VARIABLE):
        Endpoint("https://api.example.org/v1", environ={})
    with pytest.raises(ConfigError, match=KEY_VARIABLE) as caught:
        Endpoint("http://localhost/v1", environ={KEY_VARIABLE: "two words\nsecret"})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "", "example.org/v1", "ftp://example.org", "http://", "http:///v1", "http://user:pw@host/v1", "http://host/v1?k=1",
        "http://host/#a", "http://host:99999/v1", "http://host:0", "http://ho st/v1", "http://[::1/v1", "http://h\n/v1",
    ],
)  # fmt: skip
def test_bad_addresses(address: str) -> None:
    with pytest.raises(ConfigError):
        check_base_url(address)


@given(st.text(max_size=40).map(lambda tail: "http://" + tail))
def test_an_address_is_taken_or_refused_and_taken_again(text: str) -> None:
    try:
        address = check_base_url(text)
    except ConfigError:
        return
    assert check_base_url(address) == address
    is_loopback(address)


@pytest.mark.parametrize(
    ("content", "message", "finish", "expected"),
    [
        ("hi", {}, "stop", ("hi", FinishReason.STOP)),
        ("hi", {}, "length", ("hi", FinishReason.LENGTH)),
        (None, {}, "content_filter", ("", FinishReason.FILTER)),
        (None, {"refusal": "No."}, "stop", ("No.", FinishReason.STOP)),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], {}, "stop", ("ab", FinishReason.STOP)),
        ("hi", {}, "eos", ("hi", FinishReason.STOP)),
    ],
)
def test_replies_and_endings(content: object, message: dict[str, object], finish: str, expected: object) -> None:
    answer = read_completion(orjson.dumps(completion(content, finish, **message)), 0.1)
    assert (answer.text, answer.finish) == expected


json_bodies = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "error", "usage", "code"]), inner, max_size=4
        )
    ),
)


@given(json_bodies.map(orjson.dumps) | st.binary(max_size=60))
def test_any_body_is_a_completion_or_a_fault(body: bytes) -> None:
    read_error(body)
    try:
        read_completion(body, 0.0)
    except Fault:
        return


@given(
    st.integers(1, 12), st.none() | st.floats(0, 500), st.text(max_size=5), st.integers(0, 9)
)  # fmt: skip
def test_waits_are_bounded_repeatable_and_respect_the_server(
    attempt: int, asked: float | None, label: str, seed: int
) -> None:
    policy = RetryPolicy(seed=seed)
    wait = policy.wait(attempt, asked, label)
    assert wait == policy.wait(attempt, asked, label)
    if attempt >= policy.attempts or (asked is not None and asked > policy.longest_asked):
        assert wait is None
    else:
        assert wait is not None
        assert (0.0 if asked is None else asked) <= wait <= policy.longest_wait + (0.0 if asked is None else asked)


def test_retry_after_as_a_date() -> None:
    now = datetime(2026, 11, 21, 8, 0, 0, tzinfo=UTC)
    assert retry_after("Sat, 21 Nov 2026 08:00:30 GMT", now) == 30.0
    assert retry_after("Sat, 21 Nov 2026 07:00:30 GMT", now) == 0.0
    assert (retry_after("nan", now), retry_after("-3", now), retry_after("inf", now)) == (None, None, None)


@given(st.none() | st.text(max_size=20), st.text(max_size=60))
def test_learning_ends(param: str | None, message: str) -> None:
    dialect: Dialect | None = Dialect()
    for _ in range(6):
        assert dialect is not None
        dialect = learn(dialect, param, "unsupported max_tokens temperature top_p seed response_format " + message)
        if dialect is None:
            return
    raise AssertionError("it would ask for ever")


@given(st.text(), st.lists(st.sampled_from([b'{"a":1}', b'{"b":2}']), max_size=3), st.floats(0, 2), st.integers(1, 99))
def test_bodies_are_json_that_says_the_same(text: str, images: list[bytes], temperature: float, limit: int) -> None:
    sampling = Sampling(temperature=temperature, max_tokens=limit, top_p=0.5)
    message = Message(role=Role.USER, text=text)
    body = orjson.loads(bytes(request_body("n/m", [message, message], [images, images], sampling, None, Dialect())))
    content = text if not images else [*map(orjson.loads, images), {"type": "text", "text": text}]
    assert body == {
        "model": "n/m", "messages": [{"role": "user", "content": content}] * 2,
        "temperature": temperature, "top_p": 0.5, "max_tokens": limit,
    }  # fmt: skip


def test_the_examples_of_the_docs_run() -> None:
    text = (Path(__file__).parents[1] / "docs" / "endpoints.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, "docs/endpoints.md", "exec"), {})
