#!/usr/bin/env python3
"""Drives a running service with LangChain.

    service.py MINERVA MODEL check_langchain.py

Needs langchain-openai.
"""

import asyncio
import sys

import langchain_openai
import openai
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

import service

URL, MODEL, KEY, SINGLE = sys.argv[1:]
QUESTION = "What is the capital of France?"


def chat(**fields):
    fields = {"api_key": KEY, "temperature": 0, "max_tokens": 24, "max_retries": 0} | fields
    return langchain_openai.ChatOpenAI(base_url=URL + "/v1", model=MODEL, **fields)


def whole():
    answer = chat().invoke(QUESTION)
    assert answer.content and answer.usage_metadata["output_tokens"] > 0
    assert chat().invoke(QUESTION).usage_metadata["input_token_details"]["cache_read"] > 0


def stream():
    chunks = list(chat(stream_usage=True).stream(QUESTION))
    whole = chat().invoke(QUESTION)
    assert "".join(chunk.text for chunk in chunks) == whole.text
    counts = [chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata]
    assert sum(counts) == whole.usage_metadata["output_tokens"]


def conversation():
    messages = [SystemMessage("Be brief."), HumanMessage(QUESTION), AIMessage("Paris."), HumanMessage("And of Italy?")]
    assert chat().invoke(messages).text
    many = chat().batch([messages, QUESTION], config={"max_concurrency": 2})
    assert [answer.text for answer in many] == [chat().invoke(messages).text, chat().invoke(QUESTION).text]


def log_probabilities():
    content = chat(logprobs=True, top_logprobs=2).invoke(QUESTION).response_metadata["logprobs"]["content"]
    assert content and all(len(token["top_logprobs"]) == 2 for token in content)


def completion():
    model = langchain_openai.OpenAI(base_url=URL + "/v1", model=MODEL, api_key=KEY, temperature=0, max_tokens=4)
    assert "Paris" in model.invoke("The capital of France is")


def responses():
    model = chat(use_responses_api=True)
    first = model.invoke(QUESTION)
    assert first.text == "".join(chunk.text for chunk in model.stream(QUESTION))
    second = model.invoke("And of Italy?", previous_response_id=first.response_metadata["id"])
    assert second.usage_metadata["input_token_details"]["cache_read"] > 0


def errors():
    for kind, model in [
        (openai.AuthenticationError, chat(api_key="wrong")),
        (openai.BadRequestError, chat(store=True)),
    ]:
        try:
            model.invoke(QUESTION)
        except kind:
            pass
        else:
            raise AssertionError(f"expected {kind}")


def retries():
    with service.busy(URL, MODEL, SINGLE, KEY):
        answer = chat(api_key=SINGLE, max_retries=5, max_tokens=2).invoke(QUESTION)
    assert answer.usage_metadata["output_tokens"] == 2


def cancellation():
    n_running = lambda: service.figure(URL, KEY, "minerva_requests_running")
    endless = chat(max_tokens=2000, extra_body={"ignore_eos": True})
    chunks = endless.stream(QUESTION)
    next(chunks)
    service.wait_until("it runs", lambda: n_running() == 1)
    chunks.close()
    service.wait_until("it is gone", lambda: n_running() == 0)

    async def ask():
        task = asyncio.create_task(endless.ainvoke(QUESTION))
        await asyncio.to_thread(service.wait_until, "it runs", lambda: n_running() == 1)
        task.cancel()
        await asyncio.to_thread(service.wait_until, "it is gone", lambda: n_running() == 0)

    asyncio.run(ask())


for check in [
    whole, stream, conversation, log_probabilities, completion, responses, errors, retries, cancellation
]:
    check()
    print(f"ok {check.__name__} (langchain-openai)")
