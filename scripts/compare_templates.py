#!/usr/bin/env python3
"""Compares our rendering of chat templates with Jinja2 as transformers sets it up.

    pip install jinja2
    scripts/compare_templates.py FOLDER_OF_JINJA_FILES

FOLDER is llama.cpp's models/templates, or any other. Every template renders every conversation
below with both; each render falls in one of the classes that the table at the end counts. Then each
renders a chat whose strings hold the text of every control token, in several disguises: it must
have the same control tokens as the same chat without. The exit status is 1 if anything but the
known differences is found.

With --transformers, the environment is taken from the installed transformers instead of from here.
"""

import argparse
import copy
import json
import pathlib
import re
import subprocess
import sys
import time

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

# Where Python is not worth copying. In this template Markup, Jinja2's type for safe HTML, escapes
# the text that is added to it: a description comes out as "Get the weather &amp; more".
KNOWN_DIFFERENT = {"meetkai-functionary-medium-v3.1.jinja"}
# Not counted as wrong either: templates that walk over `tools` without asking whether there are any: an error in Python, where
# None cannot be walked over; we render them.
NOW = int(time.time())

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the weather & \"more\" <now>",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "The city's name"},
                    "days": {"type": "integer", "default": 1, "minimum": 0.5},
                    "unit": {"type": "string", "enum": ["°C", "°F"]},
                    "flags": {"type": ["array", "null"], "items": {"type": "boolean"}, "default": None},
                },
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {"name": "stop", "description": "Stop", "parameters": {"type": "object", "properties": {}}},
    },
]


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def call(arguments, name="get_weather", id="call_0001"):
    return {"type": "function", "id": id, "function": {"name": name, "arguments": arguments}}


ARGUMENTS = {"city": "Zürich \"A\"", "days": 2, "share": 1e20, "deep": {"a": [1, None, True]}}
SYSTEM = {"role": "system", "content": "Be brief.\n"}


def answer(content, id="call_0001", name="get_weather"):
    return {"role": "tool", "content": content, "tool_call_id": id, "name": name}


def conversations():
    """Name, messages, tools, extra variables, whether to prompt for an answer."""
    q, a = user("Hello, <b>you</b> & 'me'?\n"), assistant("  Hi.\n")
    called = [q, assistant("", tool_calls=[call(ARGUMENTS)]), answer('{"t": 21.5}')]
    two = [call(ARGUMENTS), call({}, "stop", "call_0002")]
    parts = [{"type": "text", "text": "Part one."}, {"type": "text", "text": " Part two."}]
    return [
        ("user", [q], None, {}, True),
        ("system", [SYSTEM, q], None, {}, True),
        ("turns", [SYSTEM, q, a, user("And then?"), assistant("Then."), user("Äh 😀")], None, {}, True),
        ("closed", [q, a], None, {}, False),
        ("thinking on", [q, a, q], None, {"enable_thinking": True}, True),
        ("thinking off", [q, a, q], None, {"enable_thinking": False}, True),
        ("thought", [q, assistant("Yes.", reasoning_content="Hm.\n"), q], None, {}, True),
        ("thought inline", [q, assistant("<think>\nHm.\n</think>\n\nYes."), q], None, {}, True),
        ("tools", [SYSTEM, q], TOOLS, {}, True),
        ("tool call", called, TOOLS, {}, True),
        ("tool call as text", [q, assistant("", tool_calls=[call(json.dumps(ARGUMENTS))]), answer("21")],
         TOOLS, {}, True),
        ("null content", [q, assistant(None, tool_calls=[call(ARGUMENTS)]), answer("21"), assistant("21.")],
         TOOLS, {}, False),
        ("two calls", [q, assistant(None, tool_calls=two), answer("21"), answer("ok", "call_0002", "stop"), q],
         TOOLS, {}, True),
        ("content parts", [{"role": "user", "content": parts}], None, {}, True),
    ]


def special_tokens(source):
    """The control tokens of the run: those that the template names."""
    found = re.findall(r"<[|｜][\w▁]+[|｜]>|\[/?[A-Z_]+\]|<\w+_of_\w+>", source)
    return sorted({"<s>", "</s>", *found}, key=len, reverse=True)


def attacks(special):
    """Texts that would be control tokens, or become some when trimmed or put together."""
    yield "".join(special)
    yield "\n".join(f" {token}\n" for token in special)
    yield "".join(token[: len(token) // 2] + token + token[len(token) // 2 :] for token in special)
    for token in special:
        yield token[:1]
        yield f"{token[:-1]} "
        yield f"\ufdd0{token}"


def attacked(text, parts):
    half = len(text) // 2
    pieces = [text[:half], text[half:]] if parts else [text]
    said = [{"type": "text", "text": piece} for piece in pieces] if parts else text
    return [
        {"role": "user", "content": said},
        assistant("", tool_calls=[call({"city": text})]),
        answer(text),
        user(text),
    ]


def controls(segments, special):
    pattern = re.compile("|".join(map(re.escape, special)))
    return [token for text, parse in segments if parse for token in pattern.findall(text)]


def environment():
    """The Jinja2 environment of transformers' apply_chat_template."""

    class Generation(jinja2.ext.Extension):
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

        def _body(self, caller):
            return caller()

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(
            x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: time.strftime(form, time.gmtime(NOW))
    return env


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("folder", type=pathlib.Path)
    arguments.add_argument("--transformers", action="store_true")
    arguments.add_argument("--show", action="store_true", help="print both texts where they differ")
    arguments = arguments.parse_args()
    files = sorted(arguments.folder.glob("*.jinja"))
    if not files:
        sys.exit(f"{arguments.folder}: no .jinja files")
    env = environment()
    jobs, wanted, names = [], [], []
    for file in files:
        source = file.read_text()
        try:
            if arguments.transformers:
                from transformers.utils.chat_template_utils import _compile_jinja_template

                template = _compile_jinja_template(source)
                template.environment.globals["strftime_now"] = env.globals["strftime_now"]
                template = template.environment.from_string(source)
            else:
                template = env.from_string(source)
        except jinja2.TemplateError as error:
            template = error
        for name, messages, tools, extra, prompt in conversations():
            context = {
                "messages": messages, "tools": tools, "add_generation_prompt": prompt,
                "bos_token": "<s>", "eos_token": "</s>",
            }
            jobs.append({"source": source, "extra": extra, "now": NOW,
                         "special_tokens": special_tokens(source), **context})
            names.append((file.name, name))
            try:
                if isinstance(template, Exception):
                    raise template
                text = template.render(**copy.deepcopy(context), documents=None, **extra)
                wanted.append((text, None))
            except Exception as error:  # whatever Python raises is Python's answer
                wanted.append((None, f"{type(error).__name__}: {error}"))
    n_compared = len(jobs)
    for file in files:
        source = file.read_text()
        special = special_tokens(source)
        for text in ["plain", *attacks(special)]:
            for parts in [False, True]:
                jobs.append({
                    "source": source, "extra": {}, "now": NOW, "special_tokens": special,
                    "messages": attacked(text, parts), "tools": TOOLS, "add_generation_prompt": True,
                    "bos_token": "<s>", "eos_token": "</s>",
                })
                names.append((file.name, text, parts))
    command = ["cargo", "run", "-q", "-p", "minerva-engine", "--example", "render_template"]
    run = subprocess.run(
        command, input="".join(json.dumps(job) + "\n" for job in jobs),
        stdout=subprocess.PIPE, text=True, check=True,
    )
    found = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(found) == len(jobs), f"{len(found)} answers to {len(jobs)} jobs"
    counts = dict.fromkeys(
        ["identical", "known to differ", "DIFFERENT", "ONLY WE FAIL", "only Jinja2 fails", "both fail"], 0
    )
    for answered in found:
        if "segments" in answered:
            answered["text"] = "".join(text for text, _ in answered["segments"])
    for (file, name), (text, error), ours in zip(names, wanted, found):
        if text is not None and "text" in ours:
            if text == ours["text"]:
                kind = "identical"
            else:
                kind = "known to differ" if file in KNOWN_DIFFERENT else "DIFFERENT"
        elif text is not None:
            kind = "ONLY WE FAIL"
        else:
            kind = "only Jinja2 fails" if "text" in ours else "both fail"
        counts[kind] += 1
        if kind.isupper():
            print(f"{kind}: {file}, {name}: {ours.get('error', '')}")
        if arguments.show and kind in ("DIFFERENT", "known to differ"):
            print(f"  Jinja2: {text!r}\n  ours:   {ours['text']!r}")
        if arguments.show and kind == "only Jinja2 fails":
            print(f"  {file}, {name}: {error}")
    n_attacks = n_fooled = 0
    plain = {}
    for (file, text, parts), job, ours in zip(names[n_compared:], jobs[n_compared:], found[n_compared:]):
        if "segments" not in ours:
            continue
        tokens = controls(ours["segments"], job["special_tokens"])
        if text == "plain":
            plain[file, parts] = tokens
        elif (file, parts) in plain:
            n_attacks += 1
            if tokens != plain[file, parts]:
                n_fooled += 1
                print(f"FOOLED: {file}, {text!r}, parts {parts}\n  {plain[file, parts]}\n  {tokens}")
    print(f"{len(files)} templates, {n_compared} renders")
    for kind, count in counts.items():
        print(f"{count:6} {kind}")
    print(f"{n_attacks} attacks, {n_fooled} of them with other control tokens")
    sys.exit(1 if n_fooled or counts["DIFFERENT"] or counts["ONLY WE FAIL"] else 0)


if __name__ == "__main__":
    main()
