// Drives a running service with the AI SDK, over its provider for services like OpenAI's.
//
//     service.py MINERVA MODEL node check_ai_sdk.mjs

import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateText, streamText } from "ai";
import { KEY, MODEL, QUESTION, SINGLE, URL, busy, run, running } from "./service.mjs";

const provider = (apiKey, more) =>
  createOpenAICompatible({ name: "minerva", baseURL: `${URL}/v1`, apiKey, includeUsage: true, ...more });
const model = provider(KEY)(MODEL);
const fields = { model, prompt: QUESTION, temperature: 0, maxOutputTokens: 24, maxRetries: 0 };

async function whole() {
  const answer = await generateText(fields);
  assert(answer.text);
  assert(["stop", "length"].includes(answer.finishReason));
  assert.equal(answer.usage.totalTokens, answer.usage.inputTokens + answer.usage.outputTokens);
  const again = await generateText(fields);
  assert.equal(again.text, answer.text);
  assert(again.usage.cachedInputTokens > 0);
}

async function stream() {
  const answer = streamText(fields);
  let text = "";
  for await (const part of answer.textStream) text += part;
  assert.equal(text, (await generateText(fields)).text);
  assert((await answer.usage).outputTokens > 0);
}

async function conversation() {
  const { text } = await generateText(fields);
  const messages = [
    { role: "user", content: QUESTION },
    { role: "assistant", content: text },
    { role: "user", content: "And of Italy?" },
  ];
  const answer = await generateText({ ...fields, prompt: undefined, system: "Be brief.", messages });
  assert(answer.text);
}

async function textCompletion() {
  const completion = provider(KEY).completionModel(MODEL);
  const answer = await generateText({ ...fields, model: completion, prompt: "The capital of France is" });
  assert.match(answer.text, /Paris/);
}

async function logProbabilities() {
  // The SDK has no field of its own for them: they go and come as the service's.
  const options = { providerOptions: { minerva: { logprobs: true, top_logprobs: 2 } } };
  const answer = await generateText({ ...fields, ...options });
  const { content } = answer.response.body.choices[0].logprobs;
  assert(content.length > 0 && content.every((token) => token.top_logprobs.length === 2));
}

async function errors() {
  const refusedWith = (status, code) => (error) => {
    assert(APICallError.isInstance(error), error);
    assert.equal(error.statusCode, status);
    assert.equal(JSON.parse(error.responseBody).error.code, code);
    return true;
  };
  const stranger = provider("wrong")(MODEL);
  await assert.rejects(generateText({ ...fields, model: stranger }), refusedWith(401, "invalid_api_key"));
  const nobody = provider(KEY)("no such model");
  await assert.rejects(generateText({ ...fields, model: nobody }), refusedWith(404, "model_not_found"));
  const prompt = "a ".repeat(100_000);
  await assert.rejects(generateText({ ...fields, prompt }), refusedWith(400, "context_length_exceeded"));
}

async function retries() {
  const single = provider(SINGLE)(MODEL);
  const place = await busy();
  const answer = await generateText({ ...fields, model: single, maxOutputTokens: 2, maxRetries: 5 });
  assert.equal(answer.usage.outputTokens, 2);
  await place.refused;
}

async function cancellation() {
  const options = { maxOutputTokens: 2000, providerOptions: { minerva: { ignore_eos: true } } };
  const gone = new AbortController();
  const answer = streamText({ ...fields, ...options, abortSignal: gone.signal });
  const parts = answer.textStream[Symbol.asyncIterator]();
  await parts.next();
  await running(1);
  gone.abort();
  await running(0);
  const abortSignal = AbortSignal.timeout(500);
  await assert.rejects(generateText({ ...fields, ...options, abortSignal }));
  await running(0);
}

await run("AI SDK", [whole, stream, conversation, textCompletion, logProbabilities, errors, retries, cancellation]);
