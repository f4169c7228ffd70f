#!/usr/bin/env python3
"""Drives a running service with OpenAI's own Python SDK.

    service.py MINERVA MODEL check_openai_sdk.py

Needs openai[realtime].
"""

import asyncio
import json
import sys
import threading

import openai
import pydantic
from openai.types.responses import ResponseStreamEvent

import service

URL, MODEL, KEY, SINGLE = sys.argv[1:]
client = openai.OpenAI(base_url=URL + "/v1", api_key=KEY, max_retries=0)
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


def chat(**fields):
    fields = {"model": MODEL, "messages": MESSAGES, "temperature": 0, "max_tokens": 24} | fields
    return client.chat.completions.create(**fields)


def models():
    assert MODEL in [model.id for model in client.models.list()]
    model = client.models.retrieve(MODEL)
    assert model.owned_by == "minerva" and model.max_parallel >= 1


def whole():
    answer = chat()
    assert answer.choices[0].message.content and answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    again = chat()
    assert again.choices[0].message.content == answer.choices[0].message.content
    assert again.usage.prompt_tokens_details.cached_tokens > 0


def stream():
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(chat(**options))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    answer = chat()
    assert text == answer.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == answer.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def stream_helper():
    # It refuses an answer that is cut off.
    fields = {"model": MODEL, "messages": MESSAGES, "n": 2, "stop": [" ", "e"]}
    with client.chat.completions.stream(**fields) as events:
        events.until_done()
        completion = events.get_final_completion()
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert all(choice.finish_reason == "stop" for choice in completion.choices)


def log_probabilities():
    content = chat(logprobs=True, top_logprobs=3).choices[0].logprobs.content
    for token in content:
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].logprob == token.logprob
    answer = client.completions.create(
        model=MODEL, prompt="The capital of France is", max_tokens=0, echo=True, logprobs=1
    )
    scores = answer.choices[0].logprobs
    assert scores.token_logprobs[0] is None and all(x <= 0 for x in scores.token_logprobs[1:])
    assert "".join(scores.tokens) == answer.choices[0].text == "The capital of France is"
    # As lm-eval decides whether a token is the greedy one.
    tops = zip(scores.token_logprobs[1:], scores.top_logprobs[1:])
    assert all(own <= max(top.values()) and own in top.values() for own, top in tops)


def errors():
    for kind, code, param, fields in [
        (openai.NotFoundError, "model_not_found", "model", {"model": "no such model"}),
        (openai.BadRequestError, "invalid_request", "temperature", {"temperature": "hot"}),
        (openai.BadRequestError, "unsupported_parameter", "store", {"store": True}),
        (openai.BadRequestError, "unknown_parameter", "color", {"extra_body": {"color": 1}}),
        (
            openai.BadRequestError,
            "context_length_exceeded",
            "messages",
            {"messages": [{"role": "user", "content": "a " * 200_000}]},
        ),
    ]:
        try:
            chat(**fields)
        except kind as error:
            assert (error.code, error.param) == (code, param), error
        else:
            raise AssertionError(f"{fields} was answered")
    try:
        client.with_options(api_key="wrong").models.list()
    except openai.AuthenticationError as error:
        assert error.code == "invalid_api_key", error
    else:
        raise AssertionError("a wrong key was let in")


def retries():
    single = client.with_options(api_key=SINGLE)
    fields = {"model": MODEL, "messages": MESSAGES, "max_tokens": 2}
    with service.busy(URL, MODEL, SINGLE, KEY, n_refusals=2):
        try:
            single.chat.completions.create(**fields)
        except openai.RateLimitError as error:
            assert error.code == "concurrency_limit_exceeded" and error.response.headers["retry-after"] == "1"
        else:
            raise AssertionError("a second request was let in")
        # The SDK waits as long as the service says.
        answer = single.with_options(max_retries=5).chat.completions.create(**fields)
    assert answer.usage.completion_tokens == 2


def n_running():
    return service.figure(URL, KEY, "minerva_requests_running")


def cancellation():
    endless = {"max_tokens": 2000, "extra_body": {"ignore_eos": True}}
    answer = chat(stream=True, **endless)
    next(iter(answer))
    # The figures are those after the last step.
    service.wait_until("it runs", lambda: n_running() == 1)
    answer.close()
    service.wait_until("it is gone", lambda: n_running() == 0)
    try:
        client.with_options(timeout=0.5).chat.completions.create(model=MODEL, messages=MESSAGES, **endless)
    except openai.APITimeoutError:
        service.wait_until("it is gone", lambda: n_running() == 0)
    else:
        raise AssertionError("2000 tokens in half a second")


def asynchronous():
    async def ask():
        own = openai.AsyncOpenAI(base_url=URL + "/v1", api_key=KEY, max_retries=0)
        fields = {"model": MODEL, "messages": MESSAGES, "temperature": 0, "max_tokens": 24}
        texts = []
        async for chunk in await own.chat.completions.create(stream=True, **fields):
            texts.append(chunk.choices[0].delta.content or "")
        endless = fields | {"max_tokens": 2000, "extra_body": {"ignore_eos": True}}
        task = asyncio.create_task(own.chat.completions.create(**endless))
        while await asyncio.to_thread(n_running) != 1:
            assert not task.done(), await task
        task.cancel()
        await asyncio.to_thread(service.wait_until, "it is gone", lambda: n_running() == 0)
        await own.close()
        return "".join(texts)

    assert asyncio.run(ask()) == chat().choices[0].message.content


def respond(**fields):
    fields = {"model": MODEL, "input": MESSAGES, "temperature": 0, "max_output_tokens": 24} | fields
    return client.responses.create(**fields)


def strict(event):
    """The SDK takes what it cannot validate as it is; pydantic does not."""
    pydantic.TypeAdapter(ResponseStreamEvent).validate_python(json.loads(event.to_json()))


def responses():
    first = respond(store=True)
    second = respond(input="And of Italy?", previous_response_id=first.id)
    assert second.usage.input_tokens_details.cached_tokens > 0
    answered = [item.to_dict() for item in first.output]
    sent_whole = respond(input=[*MESSAGES, *answered, {"role": "user", "content": "And of Italy?"}])
    assert second.output_text == sent_whole.output_text
    assert client.responses.retrieve(first.id).output_text == first.output_text
    assert [item.role for item in client.responses.input_items.list(first.id)] == ["user"]
    client.responses.delete(first.id)
    for kind, code, ask in [
        (openai.NotFoundError, "response_not_found", lambda: client.responses.retrieve(first.id)),
        (
            openai.BadRequestError,
            "previous_response_not_found",
            lambda: respond(previous_response_id=second.id),
        ),
        (openai.BadRequestError, "invalid_request", lambda: client.responses.cancel(second.id)),
    ]:
        try:
            ask()
        except kind as error:
            assert error.code == code, error
        else:
            raise AssertionError(f"expected {code}")


def response_events():
    events = list(
        respond(stream=True, include=["message.output_text.logprobs"], top_logprobs=2)
    )
    for event in events:
        strict(event)
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert "".join(event.delta for event in deltas) == respond().output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    # It refuses an answer that is cut off.
    fields = {"model": MODEL, "input": MESSAGES, "extra_body": {"stop": [" ", "e"]}}
    with client.responses.stream(**fields) as stream:
        stream.until_done()
        assert stream.get_final_response().status == "completed"


def socket_events(connection):
    for event in connection:
        yield event
        if event.type in ("response.completed", "response.incomplete", "response.failed", "error"):
            return


def response_socket():
    fields = {"model": MODEL, "temperature": 0, "max_output_tokens": 24, "store": False}
    with client.responses.connect() as connection:
        connection.response.create(input=MESSAGES, **fields)
        first = list(socket_events(connection))[-1].response
        assert first.output_text == respond().output_text
        connection.response.create(
            input="And of Italy?", previous_response_id=first.id, **fields
        )
        second = list(socket_events(connection))[-1].response
        assert second.usage.input_tokens_details.cached_tokens > 0
        connection.response.create(input="a", truncation="auto", **fields)
        error = list(socket_events(connection))[-1]
        assert error.error is not None and error.type == "error"
        for stream_id in "ab":
            connection.send({"type": "response.create", "stream_id": stream_id, "input": MESSAGES, **fields})
        texts = {}
        while len(texts) < 2:
            event = list(socket_events(connection))[-1]
            texts[event.stream_id] = event.response.output_text
        assert texts == {"a": first.output_text, "b": first.output_text}
        connection.send({"type": "response.create", "model": MODEL, "input": MESSAGES, "ignore_eos": True})
        next(event for event in connection if event.type == "response.output_text.delta")
        connection.send({"type": "response.cancel"})
        assert list(socket_events(connection))[-1].response.status == "cancelled"


def many_at_once():
    alone = chat().choices[0].message.content
    texts = []
    def ask():
        texts.append("".join(c.choices[0].delta.content or "" for c in chat(stream=True)))
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == [alone] * 8


for check in [
    models,
    whole,
    stream,
    stream_helper,
    log_probabilities,
    errors,
    responses,
    response_events,
    response_socket,
    retries,
    cancellation,
    asynchronous,
    many_at_once,
]:
    check()
    print(f"ok {check.__name__} (openai {openai.__version__})")
