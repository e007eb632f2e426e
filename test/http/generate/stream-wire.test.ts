/** What a stream looks like on the wire, and when it gets there. */
import t from "tap";
import { STREAM_DEFAULTS } from "../../../src/http/app-parts.ts";
import { buildTestApp, until } from "../../support/app.ts";
import { open, parseSse, raw, readAll } from "../../support/fake-client.ts";

const BODY = JSON.stringify({ prompt: "ab", stream: true, max_new_tokens: 6 });
const request = (version: string, connection: string): string =>
  `POST /generate HTTP/${version}\r\nHost: localhost\r\nConnection: ${connection}\r\nContent-Type: application/json\r\nContent-Length: ${BODY.length}\r\n\r\n${BODY}`;
/** Two bytes of a character each time. */
const accents = (_request: unknown, _choice: number, k: number): number => [0xc3, 0xa9][k % 2]!;

/** Reads one chunked body of the text; answers it and what follows. */
function unchunk(text: string): { body: string; rest: string } {
  let bytes = Buffer.from(text);
  let body = "";
  for (;;) {
    const line = bytes.indexOf("\r\n");
    const size = parseInt(bytes.toString("utf8", 0, line), 16);
    const end = line + 2 + size;
    if (bytes.toString("utf8", end, end + 2) !== "\r\n") throw new Error("a chunk's length is wrong");
    body += bytes.toString("utf8", line + 2, end);
    bytes = bytes.subarray(end + 2);
    if (size === 0) return { body, rest: bytes.toString() };
  }
}

const textOf = (body: string): string =>
  parseSse(body)
    .slice(0, -1)
    .map(({ data }) => (JSON.parse(data) as { choices: [{ text: string }] }).choices[0].text)
    .join("");

t.test("bodies are framed chunk by chunk, also on pipelined requests", async (t) => {
  const app = await buildTestApp(t);
  app.engine.script = accents;
  const answer = await raw(await app.listen(), request("1.1", "keep-alive") + request("1.1", "close"));
  let rest = answer;
  for (let i = 0; i < 2; i++) {
    t.match(rest, /^HTTP\/1\.1 200 OK\r\n[^]*?transfer-encoding: chunked\r\n/i);
    const read = unchunk(rest.slice(rest.indexOf("\r\n\r\n") + 4));
    t.equal(textOf(read.body), "\u00e9\u00e9\u00e9");
    t.equal(parseSse(read.body).length, 7);
    rest = read.rest;
  }
  t.equal(rest, "");
});

t.test("HTTP/1.0 gets no chunks", async (t) => {
  const app = await buildTestApp(t);
  app.engine.script = accents;
  const answer = await raw(await app.listen(), request("1.0", "close"));
  t.notMatch(answer, /transfer-encoding/i);
  t.equal(textOf(answer.slice(answer.indexOf("\r\n\r\n") + 4)), "\u00e9\u00e9\u00e9");
});

t.test("results that wait for the end of the turn are not written once the lease has ended", async (t) => {
  let leased = true;
  const app = await buildTestApp(t, { stream: { ...STREAM_DEFAULTS, mayEmit: () => leased } });
  app.engine.stepMs = null;
  const pending = open(await app.listen(), "/generate", { prompt: "ab", stream: true, max_new_tokens: 3 });
  await until(() => app.engine.submitted.length === 1);
  app.engine.step();
  const response = await pending;
  app.engine.step();
  // Results are handed over in a microtask that is queued already, and written after all microtasks.
  queueMicrotask(() => (leased = false));
  const events = parseSse(await readAll(response));
  t.match(events, [{ data: /"text":"c"/ }, { event: "error", data: /store_unavailable/ }]);
  t.equal(events.length, 2);
});
