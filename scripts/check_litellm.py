#!/usr/bin/env python3
"""Drives a running service with LiteLLM.

    service.py MINERVA MODEL check_litellm.py

Needs litellm.
"""

import os
import sys

# Else it asks a web page for prices when it is imported.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm

import service

URL, MODEL, KEY, SINGLE = sys.argv[1:]
litellm.suppress_debug_info = True
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


def chat(**fields):
    fields = {"api_key": KEY, "messages": MESSAGES, "temperature": 0, "max_tokens": 24, "max_retries": 0} | fields
    return litellm.completion(model=f"openai/{MODEL}", api_base=URL + "/v1", **fields)


def whole():
    answer = chat()
    assert answer.choices[0].message.content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert chat().usage.prompt_tokens_details.cached_tokens > 0


def stream():
    chunks = list(chat(stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    answer = chat()
    assert text == answer.choices[0].message.content
    rebuilt = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    assert rebuilt.usage.completion_tokens == answer.usage.completion_tokens


def log_probabilities():
    content = chat(logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert content and all(len(token.top_logprobs) == 2 for token in content)


def text_completion():
    fields = {"prompt": "The capital of France is", "max_tokens": 4, "temperature": 0}
    model = f"text-completion-openai/{MODEL}"
    answer = litellm.text_completion(model=model, api_base=URL + "/v1", api_key=KEY, **fields)
    assert "Paris" in answer.choices[0].text


def responses():
    fields = {"model": f"openai/{MODEL}", "api_base": URL + "/v1", "api_key": KEY, "input": MESSAGES}
    answer = litellm.responses(temperature=0, max_output_tokens=24, **fields)
    text = answer.output[0].content[0].text
    events = litellm.responses(temperature=0, max_output_tokens=24, stream=True, **fields)
    assert text == "".join(event.delta for event in events if event.type == "response.output_text.delta")


def errors():
    for kind, fields in [
        (litellm.AuthenticationError, {"api_key": "wrong"}),
        (litellm.BadRequestError, {"store": True}),
        (litellm.ContextWindowExceededError, {"messages": [{"role": "user", "content": "a " * 100_000}]}),
    ]:
        try:
            chat(**fields)
        except kind:
            pass
        else:
            raise AssertionError(f"expected {kind}")


def retries():
    with service.busy(URL, MODEL, SINGLE, KEY):
        answer = chat(api_key=SINGLE, max_retries=5, max_tokens=2)
    assert answer.usage.completion_tokens == 2


def cancellation():
    n_running = lambda: service.figure(URL, KEY, "minerva_requests_running")
    endless = {"max_tokens": 2000, "extra_body": {"ignore_eos": True}}
    chunks = chat(stream=True, **endless)
    next(chunks)
    service.wait_until("it runs", lambda: n_running() == 1)
    # It has no way of its own to end a stream: the SDK's below it has.
    chunks.completion_stream.close()
    service.wait_until("it is gone", lambda: n_running() == 0)
    try:
        chat(timeout=0.5, **endless)
    except litellm.Timeout:
        service.wait_until("it is gone", lambda: n_running() == 0)
    else:
        raise AssertionError("2000 tokens in half a second")


for check in [whole, stream, log_probabilities, text_completion, responses, errors, retries, cancellation]:
    check()
    print(f"ok {check.__name__} (litellm)")
