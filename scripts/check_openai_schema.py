#!/usr/bin/env python3
"""Validates what a running service answers against OpenAI's own OpenAPI description.

    service.py MINERVA MODEL check_openai_schema.py openai-openapi.json

Needs jsonschema. Prints one line for each answer; the exit
status is 1 if one does not follow its schema. `timings`, `warnings` and `prompt_progress` are
additions that the schemas allow.
"""

import json
import sys
import urllib.error
import urllib.request

import jsonschema


def nullable(schema):
    """OpenAPI 3.0's `nullable`, which JSON Schema does not know, as a type of its own."""
    if isinstance(schema, list):
        return [nullable(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: nullable(value) for key, value in schema.items()}
    if schema.pop("nullable", False):
        return {"anyOf": [schema, {"type": "null"}]}
    return schema


# The schema of each event: that of the stream is any of them, and says nothing of what is missing.
EVENTS = {
    "response.created": "ResponseCreatedEvent",
    "response.in_progress": "ResponseInProgressEvent",
    "response.output_item.added": "ResponseOutputItemAddedEvent",
    "response.content_part.added": "ResponseContentPartAddedEvent",
    "response.output_text.delta": "ResponseTextDeltaEvent",
    "response.output_text.done": "ResponseTextDoneEvent",
    "response.content_part.done": "ResponseContentPartDoneEvent",
    "response.output_item.done": "ResponseOutputItemDoneEvent",
    "response.completed": "ResponseCompletedEvent",
    "response.incomplete": "ResponseIncompleteEvent",
}


def main():
    path, url, model, key, _ = sys.argv[1:]
    with open(path) as file:
        document = nullable(json.load(file))
    n_wrong = 0

    def check(name, schema, value):
        nonlocal n_wrong
        root = {"$ref": f"#/components/schemas/{schema}", "components": document["components"]}
        validator = jsonschema.Draft202012Validator(root)
        errors = list(validator.iter_errors(value))
        print(f"{'wrong' if errors else 'ok':5} {name}: {schema}")
        for error in errors:
            n_wrong += 1
            print(f"      {list(error.absolute_path)}: {error.message[:300]}")

    def ask(path, body=None):
        data = None if body is None else json.dumps({"model": model, **body}).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        request = urllib.request.Request(url + path, data, headers)
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.read().decode()

    def chunks(text):
        events = [event for event in text.split("\n\n") if event and not event.startswith(":")]
        assert events.pop() == "data: [DONE]", text
        return [json.loads(event.removeprefix("data: ")) for event in events]

    def events(text):
        blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
        return [json.loads(block.split("\ndata: ", 1)[1]) for block in blocks]

    check("models", "ListModelsResponse", json.loads(ask("/v1/models")))
    check("model", "Model", json.loads(ask(f"/v1/models/{model}")))
    chat = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}
    text = {"prompt": "The sky is", "max_tokens": 8}
    variants = [
        {},
        {"n": 2, "seed": 1, "stop": ["."]},
        {"logit_bias": {"1": -100}, "frequency_penalty": 0.5, "user": "u"},
    ]
    for fields in variants:
        for more in [{}, {"logprobs": True, "top_logprobs": 2}]:
            body = {**chat, **fields, **more}
            name = f"chat {json.dumps({**fields, **more})}"
            check(name, "CreateChatCompletionResponse", json.loads(ask("/v1/chat/completions", body)))
            body |= {"stream": True, "stream_options": {"include_usage": True}}
            for chunk in chunks(ask("/v1/chat/completions", body)):
                check(f"{name}, stream", "CreateChatCompletionStreamResponse", chunk)
        # With `echo` the first token has no log-probability: null, where the schema has numbers, as
        # OpenAI's own service answered.
        for more in [{}, {"logprobs": 2}, {"echo": True}]:
            body = {**text, **fields, **more}
            name = f"completion {json.dumps({**fields, **more})}"
            check(name, "CreateCompletionResponse", json.loads(ask("/v1/completions", body)))
    include = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    for fields in [{}, {"instructions": "Be brief.", "metadata": {"a": "b"}, "user": "u"}, include]:
        body = {"input": "Say hello.", "max_output_tokens": 16, **fields}
        name = f"response {json.dumps(fields)}"
        response = json.loads(ask("/v1/responses", body))
        check(name, "Response", response)
        check(f"{name}, stored", "Response", json.loads(ask(f"/v1/responses/{response['id']}")))
        items = json.loads(ask(f"/v1/responses/{response['id']}/input_items"))
        check(f"{name}, input items", "ResponseItemList", items)
        body |= {"stream": True, "previous_response_id": response["id"]}
        for event in events(ask("/v1/responses", body)):
            check(f"{name}, {event['type']}", EVENTS[event["type"]], event)
    # A chunk of a completion is no whole one: it has a reason to end only at its end.
    for path, body in [
        ("/v1/chat/completions", {"messages": []}),
        ("/v1/chat/completions", {**chat, "store": True}),
        ("/v1/chat/completions", {**chat, "model": "no such model"}),
        ("/v1/completions", {**text, "prompt": "a " * 100_000}),
        ("/v1/responses", {"input": "a", "previous_response_id": "resp_1"}),
        ("/v1/nothing", {}),
    ]:
        answer = json.loads(ask(path, body))
        check(f"error {answer['error']['code']}", "ErrorResponse", answer)
    sys.exit(n_wrong > 0)


main()
