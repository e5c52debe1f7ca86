// Facts and jobs from Node.js 18 or later, with nothing but what it brings along.
//
//   FLEETBUS_URL=http://127.0.0.1:8000 FLEETBUS_TOKEN=fb_… node fleetbus.mjs publish
//   FLEETBUS_URL=http://127.0.0.1:8000 FLEETBUS_TOKEN=fb_… node fleetbus.mjs run SCRIPT NODE

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

const { FLEETBUS_URL, FLEETBUS_TOKEN } = process.env;
// milliseconds for which a request without an answer is sent again, under the same key
const GIVE_UP_AFTER = 60_000;
// too many requests, and no portal or no bus behind what answered
const PASSING = new Set([429, 502, 503, 504]);

// What the portal answers. Throws an error with its problem document when it says no.
export async function post(path, body, { id = randomUUID(), wait = 0 } = {}) {
  const deadline = Date.now() + GIVE_UP_AFTER + wait * 1000;
  for (let pause = 100; ; pause = Math.min(2 * pause, 2000)) {
    const answer = await fetch(`${FLEETBUS_URL}/api/v1${path}${wait ? `?wait=${wait}` : ""}`, {
      method: "POST",
      redirect: "error",
      headers: {
        Authorization: `Bearer ${FLEETBUS_TOKEN}`,
        "Content-Type": "application/json",
        "Idempotency-Key": id,
      },
      body: JSON.stringify(body),
    }).catch((error) => error);
    if (answer.ok) return answer.json();
    if (answer instanceof Response && !PASSING.has(answer.status)) {
      const problem = await answer.json();
      throw Object.assign(new Error(problem.detail ?? problem.title), { problem });
    }
    if (Date.now() + pause > deadline) throw new Error(`no confirmation of ${id}; it may be in the log or not`);
    await sleep(pause);
  }
}

// Tells a fact, `event.<service>.<what happened>`, and returns its id.
export async function publish(type, subject, data, options) {
  return (await post("/events", { type, subject, data }, options)).id;
}

// Runs a script and returns its job, or undefined when it has not ended within `wait` seconds.
export async function run(script, target, params = {}, { wait = 60, ...options } = {}) {
  return (await post("/jobs", { script, target, params }, { wait, ...options })).job;
}

const [command, ...words] = process.argv.slice(2);
try {
  if (command === "publish") console.log(await publish("event.billing.invoice.paid", "invoice 17", { amount: 12.5 }));
  if (command === "run") console.log(JSON.stringify(await run(words[0], { node: words[1] })));
} catch (error) {
  console.error(`error: ${error.message}`);
  process.exitCode = 1;
}
