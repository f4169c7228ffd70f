// Drives a running service with OpenAI's own SDK for JavaScript.
//
//     service.py MINERVA MODEL node check_openai.mjs

import assert from "node:assert/strict";
import OpenAI from "openai";
import { ResponsesWS } from "openai/resources/responses/ws";
import { KEY, MODEL, QUESTION, SINGLE, URL, busy, run, running } from "./service.mjs";

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: KEY, maxRetries: 0 });
const messages = [{ role: "user", content: QUESTION }];
const fields = { model: MODEL, messages, temperature: 0, max_tokens: 24 };
const chat = (more = {}, options = {}) => client.chat.completions.create({ ...fields, ...more }, options);

async function models() {
  const { data } = await client.models.list();
  assert(data.some((model) => model.id === MODEL));
  assert.equal((await client.models.retrieve(MODEL)).owned_by, "minerva");
}

async function whole() {
  const answer = await chat();
  assert(answer.choices[0].message.content);
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
}

async function stream() {
  let text = "";
  let usage;
  for await (const chunk of await chat({ stream: true, stream_options: { include_usage: true } })) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  const answer = await chat();
  assert.equal(text, answer.choices[0].message.content);
  assert.equal(usage.completion_tokens, answer.usage.completion_tokens);
}

async function streamHelper() {
  const helper = client.chat.completions.stream({ ...fields, n: 2 });
  const { choices } = await helper.finalChatCompletion();
  assert.deepEqual(choices.map((choice) => choice.index), [0, 1]);
}

async function logProbabilities() {
  const { choices } = await chat({ logprobs: true, top_logprobs: 3 });
  for (const token of choices[0].logprobs.content) {
    assert.equal(token.top_logprobs.length, 3);
    assert.equal(token.top_logprobs[0].logprob, token.logprob);
  }
  const prompt = "The capital of France is";
  const echo = await client.completions.create({ model: MODEL, prompt, max_tokens: 0, echo: true, logprobs: 1 });
  assert.equal(echo.choices[0].logprobs.tokens.join(""), prompt);
}

async function errors() {
  for (const [kind, code, param, more] of [
    [OpenAI.NotFoundError, "model_not_found", "model", { model: "no such model" }],
    [OpenAI.BadRequestError, "invalid_request", "temperature", { temperature: "hot" }],
    [OpenAI.BadRequestError, "unsupported_parameter", "store", { store: true }],
    [OpenAI.BadRequestError, "unknown_parameter", "color", { color: 1 }],
  ]) {
    await assert.rejects(chat(more), (error) => {
      assert(error instanceof kind);
      assert.deepEqual([error.code, error.param], [code, param]);
      return true;
    });
  }
  const stranger = client.withOptions({ apiKey: "wrong" });
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
}

async function retries() {
  const single = client.withOptions({ apiKey: SINGLE });
  const short = { ...fields, max_tokens: 2 };
  const place = await busy(2);
  await assert.rejects(single.chat.completions.create(short), OpenAI.RateLimitError);
  const answer = await single.chat.completions.create(short, { maxRetries: 5 });
  assert.equal(answer.usage.completion_tokens, 2);
  await place.refused;
}

async function cancellation() {
  const endless = { max_tokens: 2000, ignore_eos: true };
  const answer = await chat({ ...endless, stream: true });
  for await (const chunk of answer) {
    if (chunk.choices[0].delta.content) break;
  }
  await running(0);
  const gone = new AbortController();
  const rejected = assert.rejects(chat(endless, { signal: gone.signal }), OpenAI.APIUserAbortError);
  await running(1);
  gone.abort();
  await rejected;
  await running(0);
  await assert.rejects(chat(endless, { timeout: 500 }), OpenAI.APIConnectionTimeoutError);
  await running(0);
}

const respond = (more) =>
  client.responses.create({ model: MODEL, input: messages, temperature: 0, max_output_tokens: 24, ...more });

async function responses() {
  const first = await respond();
  const second = await respond({ input: "And of Italy?", previous_response_id: first.id });
  assert(second.usage.input_tokens_details.cached_tokens > 0);
  assert.equal((await client.responses.retrieve(first.id)).output_text, first.output_text);
  let text = "";
  for await (const event of await respond({ stream: true })) {
    if (event.type === "response.output_text.delta") text += event.delta;
  }
  assert.equal(text, first.output_text);
  // The helper refuses an answer that is cut off.
  const helper = client.responses.stream({ model: MODEL, input: messages, stop: [" ", "e"] });
  assert.equal((await helper.finalResponse()).status, "completed");
  await client.responses.delete(first.id);
  await assert.rejects(client.responses.retrieve(first.id), OpenAI.NotFoundError);
}

async function responseSocket() {
  const socket = new ResponsesWS(client);
  const own = { model: MODEL, temperature: 0, max_output_tokens: 24, store: false };
  const last = async (request) => {
    socket.send({ type: "response.create", ...own, ...request });
    for await (const { type, message } of socket) {
      if (type !== "message") continue;
      if (["response.completed", "response.incomplete"].includes(message.type)) return message.response;
      assert(message.type !== "error", JSON.stringify(message));
    }
  };
  const text = (response) => response.output[0].content[0].text;
  const first = await last({ input: messages });
  assert.equal(text(first), (await respond()).output_text);
  const second = await last({ input: "And of Italy?", previous_response_id: first.id });
  assert(second.usage.input_tokens_details.cached_tokens > 0);
  socket.close();
}

await run("openai for Node", [
  models,
  whole,
  stream,
  streamHelper,
  logProbabilities,
  errors,
  retries,
  cancellation,
  responses,
  responseSocket,
]);
