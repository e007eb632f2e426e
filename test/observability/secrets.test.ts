import fc from "fast-check";
import t from "tap";
import { looksLikeKey, SecretFilter } from "../../src/observability/secrets.ts";
import { createApiKey } from "../../src/users/api-key.ts";

const ADMIN = "9f3b7c21d04e58a6b1c2f7e8903d4a5b6c7d8e9f0a1b2c3d4e5f60718293a4b5";
const filter = new SecretFilter([ADMIN, "short", 'p"ss\\word/with+odd=chars!']);

/** No part of a secret that is long enough to tell of it is left. */
function hides(text: string, secret: string): boolean {
  const left = filter.clean(text).toLowerCase();
  for (let at = 0; at + 12 <= secret.length; at++)
    if (left.includes(secret.slice(at, at + 12).toLowerCase())) return false;
  return true;
}

t.test("a known secret is found at any place, in capitals, cut off, longer and with a character changed", (t) => {
  fc.assert(
    fc.property(
      fc.string({ maxLength: 30 }),
      fc.string({ maxLength: 30 }),
      fc.nat(ADMIN.length - 12),
      fc.integer({ min: 12, max: 64 }),
      fc.boolean(),
      (before, after, from, length, capitals) => {
        const part = ADMIN.slice(from, from + length);
        return hides(`${before}${capitals ? part.toUpperCase() : part}${after}`, part);
      },
    ),
  );
  for (let at = 0; at < ADMIN.length; at++)
    t.ok(hides(`x-${ADMIN.slice(0, at)}X${ADMIN.slice(at + 1)}-y`, ADMIN), "one character changed");
  t.equal(filter.clean(`a ${ADMIN} b ${ADMIN} c`), "a [redacted] b [redacted] c");
  t.end();
});

t.test("a secret with characters that JSON escapes is found in JSON", (t) => {
  const secret = 'p"ss\\word/with+odd=chars!';
  const line = JSON.stringify({ msg: `refused ${secret}.` });
  t.equal(filter.clean(line), '{"msg":"refused [redacted]."}');
  t.end();
});

t.test("users' keys and their near misses are found by their shape, and the secret alone", (t) => {
  for (let i = 0; i < 200; i++) {
    const { key, id } = createApiKey();
    for (const put of [
      key,
      `${key}x`,
      key.slice(0, -1),
      key.toUpperCase(),
      key.replace("_", "-"),
      key.slice(0, 30),
      `name.${key}`,
    ]) {
      t.notMatch(filter.clean(`{"prefix_id":"${put}"}`), put.slice(4), put);
      t.ok(looksLikeKey(put), put);
    }
    t.equal(filter.clean(`{"user":"${id}"}`), `{"user":"${id}"}`, "the id of a key is public");
  }
  const secrets = Array.from({ length: 2_000 }, () => createApiKey().key.slice(-43));
  const found = secrets.filter((secret) => filter.clean(`{"target":"${secret}"}`) === '{"target":"[redacted]"}');
  t.ok(found.length >= secrets.length - 5, `${found.length} of ${secrets.length}`);
  t.end();
});

t.test("names, digests, ids and paths stay", (t) => {
  const texts = [
    "CustomerSupport-Intent-Classification-2024-v1-final",
    "restaurants-RU-2024-11-27T10-11-12Z-gpt2-small-FP16",
    "7b0e1a9c-3f52-4c1e-9d0a-5b7e2f1c8a44",
    "V1StGXR8_Z5jdHi6B-myT",
    "prefix_tuning_E2E_NLG_lr5e-5_bs8_ep3_seed42_P10_mlp512",
    "user_2NNEqL2nrIRdJ194ndJqAHwEfxC",
    "01ARZ3NDEKTSV4RRFFQ69G5FAV",
    ADMIN.split("").reverse().join(""),
    "pfx",
    "prefix_0123456789",
    "short",
    "file:///srv/prefixd/dist/http/routes/prefixes.js:203:17",
    "\n    at async TestServer.handlesRequestOnKeepAliveConnections (node:internal/process/task_queues:105:5)",
  ];
  for (const text of texts) t.ok(filter.passes(text), text);
  t.equal(new SecretFilter([]).clean(`a ${ADMIN}`), `a ${ADMIN}`);
  t.end();
});
