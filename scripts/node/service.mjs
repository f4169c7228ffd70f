// What the checks of JavaScript clients share: the running service that `service.py` names, and its figures.

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";

export const [URL, MODEL, KEY, SINGLE] = process.argv.slice(2);
export const QUESTION = "What is the capital of France?";

/** The sum of a metric over all of its lines with this label. */
export async function figure(name, label = "") {
  const answer = await fetch(`${URL}/metrics`, { headers: { Authorization: `Bearer ${KEY}` } });
  const lines = (await answer.text()).split("\n");
  const found = lines.filter((line) => line.startsWith(`${name}{`) && line.includes(label));
  return found.reduce((sum, line) => sum + Number(line.split(" ").pop()), 0);
}

export async function running(n) {
  for (let i = 0; (await figure("minerva_requests_running")) !== n; i++) {
    assert(i < 1000, `not within 20 s: ${n} requests run`);
    await sleep(20);
  }
}

/** Holds the single place of a key until so many of its requests have been refused with 429. */
export async function busy(nRefusals = 1) {
  const refused = () => figure("minerva_errors_total", 'code="concurrency_limit_exceeded"');
  const wanted = (await refused()) + nRefusals;
  const gone = new AbortController();
  const answer = await fetch(`${URL}/v1/completions`, {
    method: "POST",
    headers: { "Content-Type": "application/json", Authorization: `Bearer ${SINGLE}` },
    body: JSON.stringify({ model: MODEL, prompt: "Once", max_tokens: 3000, ignore_eos: true, stream: true }),
    signal: gone.signal,
  });
  assert.equal(answer.status, 200);
  const reader = answer.body.getReader();
  const hold = async () => {
    while ((await refused()) < wanted) assert(!(await reader.read()).done, "it ended before a request was refused");
    gone.abort();
  };
  return { refused: hold() };
}

/** Runs the checks one after the other. */
export async function run(name, checks) {
  for (const check of checks) {
    await check();
    console.log(`ok ${check.name} (${name})`);
  }
}
