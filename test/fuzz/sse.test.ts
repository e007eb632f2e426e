/** Server-sent events: any text survives the wire, however its bytes are cut on the way. */
import { PassThrough } from "node:stream";
import type { FastifyReply } from "fastify";
import fc from "fast-check";
import t from "tap";
import { PrefixdError } from "../../src/errors.ts";
import { STREAM_DEFAULTS } from "../../src/http/app-parts.ts";
import { SseStream } from "../../src/http/sse.ts";
import { anyText } from "./support/from-schema.ts";
import { holds } from "./support/runs.ts";

interface SseEvent {
  readonly event: string;
  readonly data: string;
}

/** The parser of WHATWG HTML, 9.2.6, on bytes as they come; without ids and retry times, which are not sent. */
class EventParser {
  readonly events: SseEvent[] = [];
  readonly #decoder = new TextDecoder();
  #rest = "";
  #event = "";
  #data: string[] = [];

  push(bytes: Uint8Array): void {
    this.#rest += this.#decoder.decode(bytes, { stream: true });
    // A CR at the end may be half of a line end.
    for (let end; (end = /\r\n|\n|\r(?!$)/.exec(this.#rest)) !== null; ) {
      const line = this.#rest.slice(0, end.index);
      this.#rest = this.#rest.slice(end.index + end[0].length);
      this.#line(line);
    }
  }

  #line(line: string): void {
    if (line === "") {
      if (this.#data.length > 0) this.events.push({ event: this.#event || "message", data: this.#data.join("\n") });
      [this.#event, this.#data] = ["", []];
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") this.#event = value;
    if (field === "data") this.#data.push(value);
  }
}

/** The bytes that a stream writes, at the end of the turn. */
async function written(play: (sse: SseStream) => void): Promise<Buffer> {
  const raw = Object.assign(new PassThrough({ highWaterMark: 2 ** 30 }), {
    writeHead: () => undefined,
    setHeader: () => undefined,
    setTimeout: () => undefined,
  });
  const reply = { raw, request: { id: "test", url: "/generate" }, hijack: () => undefined, getHeaders: () => ({}) };
  play(new SseStream(reply as unknown as FastifyReply, { ...STREAM_DEFAULTS, bufferLimit: Infinity }, () => undefined));
  await new Promise(setImmediate);
  const bytes = raw.read() as Buffer;
  raw.destroy();
  return bytes;
}

const lineEnds = fc.constantFrom(
  "\r",
  "\n",
  "\r\n",
  "\n\n",
  "\u2028",
  "\u0085",
  "data: x",
  ": ",
  "event: error\n",
  "[DONE]",
);
const text = fc.oneof(
  anyText,
  fc.array(fc.oneof(anyText, lineEnds), { maxLength: 6 }).map((parts) => parts.join("")),
);

t.test("events come out as they went in, cut at any byte", async (t) => {
  await holds(
    t,
    500,
    fc.asyncProperty(
      fc.array(fc.dictionary(text, text, { maxKeys: 3 }), { maxLength: 5 }),
      fc.constantFrom("last", "error"),
      text,
      fc.array(fc.nat()),
      async (events, end, detail, cuts) => {
        const bytes = await written((sse) => {
          for (const event of events) sse.event(JSON.stringify(event));
          if (end === "last") sse.last(JSON.stringify({ detail }));
          else sse.error(new PrefixdError("draining", detail));
        });
        const parser = new EventParser();
        const places = [0, ...cuts.map((cut) => cut % bytes.length).sort((a, b) => a - b), bytes.length];
        for (const [i, place] of places.slice(1).entries()) parser.push(bytes.subarray(places[i], place));
        const expected = events.map((event) => JSON.stringify(event));
        const tail = parser.events.slice(events.length);
        const ended =
          end === "last"
            ? tail.length === 2 && tail[0]?.data === JSON.stringify({ detail }) && tail[1]?.data === "[DONE]"
            : tail.length === 1 &&
              tail[0]?.event === "error" &&
              (JSON.parse(tail[0].data) as { detail: string }).detail === detail;
        return (
          ended &&
          parser.events
            .slice(0, events.length)
            .every(({ event, data }, i) => event === "message" && data === expected[i])
        );
      },
    ),
  );
});
