/** Streams whose tokens come in lumps are told apart from fast and slow ones, and a run through a proxy that gathers says so. */
import { once } from "node:events";
import { connect, createServer, type AddressInfo } from "node:net";
import t, { type Test } from "tap";
import type { CallRecord } from "../../src/load/client.ts";
import { lumpWarnings, Lumps } from "../../src/load/lumps.ts";
import { reportHtml } from "../../src/load/report/html.ts";
import { resultText } from "../../src/load/report/text.ts";
import { startFakePrefixd } from "./fake-prefixd.ts";
import { load, scenarioOf } from "./options.ts";
import { sampleResult } from "./sample-result.ts";

const stream = (ttft: number, gaps: readonly number[], choices = 1): CallRecord => ({
  ...{ intendedAt: 0, sentAt: 100, endedAt: 9000, code: "ok", retryAfterS: null, tokens: 0, prefix: null },
  answer: { tokenIds: [], logprobs: [], text: "", finishReason: null },
  firstTokenAt: 100 + ttft,
  gaps,
  choices,
});
const times = <T>(count: number, make: (index: number) => T): T[] =>
  Array.from({ length: count }, (_, index) => make(index));
const warningsFor = (records: readonly CallRecord[], lagMs = 1): string[] => {
  const lumps = new Lumps();
  for (const record of records) lumps.record(record);
  return lumpWarnings(lumps.result(), lagMs).map(({ name }) => name);
};

t.test("what counts as a lump", async (t) => {
  const lump = (size: number, wait: number): number[] => [wait, ...times(size - 1, () => 0.02)];
  const inLumps = stream(
    200,
    times(10, () => lump(20, 200))
      .flat()
      .slice(1),
  );
  t.same(warningsFor([inLumps]), ["streams_in_lumps"], "lumps of twenty, 200 ms apart");
  t.same(
    warningsFor(
      times(3, () =>
        stream(
          80,
          times(44, () => 0.01),
        ),
      ),
    ),
    ["streams_in_lumps"],
    "whole streams with one read",
  );
  t.same(warningsFor([inLumps], 150), [], "the client was away for as long");
  t.same(
    warningsFor([
      stream(
        300,
        times(199, () => 5),
      ),
    ]),
    [],
    "token by token",
  );
  t.same(
    warningsFor([
      stream(
        300,
        times(199, () => 200),
      ),
    ]),
    [],
    "slowly",
  );
  t.same(
    warningsFor([
      stream(
        20,
        times(199, () => 0.2),
      ),
    ]),
    [],
    "faster than a millisecond a token",
  );
  t.same(
    warningsFor([stream(300, times(100, () => lump(2, 80)).flat())]),
    [],
    "two at once are a reader that was a little late",
  );
  t.same(
    warningsFor([
      stream(
        90,
        times(50, () => lump(4, 90))
          .flat()
          .slice(1),
        4,
      ),
    ]),
    [],
    "four answers' tokens of a slow step",
  );
  t.same(
    warningsFor([
      inLumps,
      stream(
        300,
        times(400, () => 5),
      ),
    ]),
    [],
    "some streams of many",
  );
  t.same(warningsFor([stream(200, lump(20, 200).slice(1))]), [], "too few to say");
  t.same(warningsFor([{ ...inLumps, firstTokenAt: null }]), [], "no stream");
});

t.test("every report tells of lumps", async (t) => {
  const lumps = { events: 400, in_lumps: 380, wait_p50: 203 };
  const result = { ...sampleResult(), stream_lumps: lumps, warnings: lumpWarnings(lumps, 1) };
  for (const report of [resultText(result), reportHtml(result)])
    t.match(
      report,
      /streams_in_lumps: 95 % of the streams.* after pauses of 203 ms \(median\).*http-no-delay.*proxy_buffering/,
    );
  t.notMatch(resultText(sampleResult()) + reportHtml(sampleResult()), "streams_in_lumps");
});

/** Passes requests on at once, and answers every 300 ms. */
async function startGatheringProxy(t: Test, port: number): Promise<string> {
  const server = createServer((client) => {
    const upstream = connect(port, "127.0.0.1");
    client.pipe(upstream);
    let gathered: Buffer[] = [];
    const timer = setInterval(() => {
      if (gathered.length > 0) client.write(Buffer.concat(gathered));
      gathered = [];
    }, 300);
    upstream.on("data", (piece: Buffer) => gathered.push(piece));
    for (const socket of [client, upstream])
      socket
        .on("close", () => (clearInterval(timer), client.destroy(), upstream.destroy()))
        .on("error", () => undefined);
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  t.teardown(() => server.close());
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

t.test("runs through a buffering proxy and without one", async (t) => {
  const server = await startFakePrefixd({ tokenMs: 10 });
  t.teardown(() => server.close());
  const proxy = await startGatheringProxy(t, Number(new URL(server.url).port));
  const scenario = scenarioOf([
    {
      name: "g",
      arrivals: { process: "closed", steps: [{ for_s: 4, clients: 2 }] },
      requests: { prompt_tokens: 2, max_new_tokens: 100 },
    },
  ]);
  const [through, directly] = [await load(proxy, scenario), await load(server.url, scenario)];
  t.match(
    through,
    { passed: true, warnings: [{ name: "streams_in_lumps" }] },
    JSON.stringify([through.stream_lumps, through.client]),
  );
  t.same(directly.warnings, [], JSON.stringify([directly.stream_lumps, directly.client]));
});
