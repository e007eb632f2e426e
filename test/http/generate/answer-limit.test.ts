/** Answers are bounded before they are computed, made in chunks, and written as fast as they are read. */
import { once } from "node:events";
import { request, type IncomingMessage } from "node:http";
import { connect } from "node:net";
import t from "tap";
import type { ChoiceDelta, ValidGenerateRequest } from "../../../src/generation/service.ts";
import { exactly } from "../../../src/generation/lengths.ts";
import { AnswerLimit } from "../../../src/http/generate/answer-limit.ts";
import { CLIENT_DEFAULTS, STREAM_DEFAULTS } from "../../../src/http/app-parts.ts";
import { CHUNK_SIZE, ResponseWriter } from "../../../src/http/generate/response.ts";
import { bytesOfToken, GenerateShape } from "../../../src/http/generate/shape.ts";
import { longestTurn, turnBudget } from "../../support/event-loop.ts";
import { buildTestApp, post, until } from "../../support/app.ts";
import { FakeTokenizer } from "../../support/fake-tokenizer.ts";
import { open, parseSse, readAll } from "../../support/fake-client.ts";
import { randomNumbers } from "../../text/support.ts";
import { lacking } from "../../support/requirements.ts";

const END = {
  prefix: null,
  usage: { prefix: 0, prompt: 2, completion: 3 },
  timings: { queueMs: 0, prefillMs: 0, decodeMs: 0, tokensPerSecond: null },
};
const tokenizer = new FakeTokenizer();
const random = randomNumbers(31);
const below = (n: number): number => Math.floor(random() * n);

function validRequest(over: Partial<ValidGenerateRequest>): ValidGenerateRequest {
  return {
    id: "gen-1",
    user: "local",
    prefix: null,
    prompts: [Int32Array.of(1)],
    n: 1,
    bestOf: null,
    beams: null,
    echo: false,
    ...exactly(1),
    seed: 7,
    logprobs: null,
    stop: [],
    stopTokenIds: [],
    ignoreEos: true,
    ...over,
  } as ValidGenerateRequest;
}

/** A choice of so many tokens, each with as many of the likeliest. */
function choiceOf(index: number, tokens: number, logprobs: number | null, worst = false): ChoiceDelta {
  const number = (): number => (worst ? -1.2345678901234567e-10 : -random());
  const tokenIds = Array.from({ length: tokens }, () => (worst ? 1 : below(256)));
  const top = tokenIds.map(() =>
    Array.from({ length: logprobs ?? 0 }, () => ({ id: worst ? 1 : below(257), logprob: number() })),
  );
  return {
    index,
    text: tokenizer.decode(tokenIds),
    tokenIds,
    logprobs: logprobs === null ? { token: [], top: [] } : { token: tokenIds.map(number), top },
    finishReason: "length",
    score: worst ? -1.5 : null,
  };
}

const writerOf = (logprobs: number | null, returnTokenIds: boolean): ResponseWriter =>
  new ResponseWriter(
    new GenerateShape(validRequest({ logprobs }), { stream: false, returnTokenIds, timings: false }, "demo", (id) =>
      tokenizer.tokenText(id),
    ),
  );

t.test("an answer in chunks equals JSON.stringify's; an ordinary one is one chunk", (t) => {
  for (const [choices, tokens] of [
    [1, 0],
    [1, 3],
    [4, 60],
    [3, 4000],
    [40, 1000],
  ] as const) {
    for (const logprobs of [null, 0, 5, 20]) {
      if (choices * tokens * (logprobs ?? 0) > 100_000) continue;
      const returned = random() < 0.5;
      const all = Array.from({ length: choices }, (_, index) => choiceOf(index, tokens, logprobs, index % 2 === 1));
      const chunks = [...writerOf(logprobs, returned).whole({ choices: all, end: END })];
      const shown = all.map(({ index, text, tokenIds, logprobs: { token, top }, score, finishReason }) => ({
        index,
        text,
        ...(returned ? { token_ids: tokenIds } : {}),
        ...(logprobs === null
          ? {}
          : {
              logprobs: {
                token_logprobs: token,
                top_logprobs: top.map((some) =>
                  some.map(({ id, logprob }) => ({ id, token: tokenizer.tokenText(id), logprob })),
                ),
              },
            }),
        ...(score === null ? {} : { score }),
        finish_reason: finishReason,
      }));
      const expected = JSON.stringify({
        object: "generation",
        id: "gen-1",
        prefix: null,
        model: "demo",
        usage: { prefix_tokens: 0, prompt_tokens: 2, completion_tokens: 3 },
        seed: 7,
        choices: shown,
      });
      if (chunks.join("") !== expected) t.fail(`${choices} x ${tokens} x ${logprobs}`);
      if (expected.length < CHUNK_SIZE) t.equal(chunks.length, 1);
      if (Math.max(...chunks.map(({ length }) => length)) > 6 * CHUNK_SIZE)
        t.fail(`a chunk of ${Math.max(...chunks.map(({ length }) => length))} characters`);
    }
  }
  t.end();
});

t.test("no answer exceeds its estimate; a request that could is refused, naming what to lower", (t) => {
  for (let round = 0; round < 200; round++) {
    const logprobs = [null, 0, 1, 20][below(4)]!;
    const [n, returned, echo, worst] = [1 + below(4), random() < 0.5, random() < 0.5, random() < 0.5];
    const [maxNewTokens, prompts] = [
      1 + below(30),
      Array.from({ length: 1 + below(3) }, () => new Int32Array(1 + below(30)).fill(1)),
    ];
    const choices = prompts.flatMap(({ length }, p) =>
      Array.from({ length: n }, (_, c) =>
        choiceOf(p * n + c, (echo ? length : 0) + Math.min(maxNewTokens, 64), logprobs, worst),
      ),
    );
    const choicesBytes = Buffer.byteLength(
      JSON.stringify(
        choices.map(({ text, tokenIds, logprobs: { token, top } }) => [
          text,
          ...(returned ? [tokenIds] : []),
          ...(logprobs === null
            ? []
            : [
                token,
                top.map((some) => some.map(({ id, logprob }) => ({ id, token: tokenizer.tokenText(id), logprob }))),
              ]),
        ]),
      ),
    );
    const request = validRequest({ prompts, n, echo, logprobs, ...exactly(maxNewTokens) });
    // What is around the tokens is no matter of theirs.
    const limit = choicesBytes - 40 * choices.length;
    t.throws(() => new AnswerLimit(limit, tokenizer, 64).check(request, { returnTokenIds: returned }, bytesOfToken), {
      code: "answer_too_large",
    });
  }
  const refusal = (over: Partial<ValidGenerateRequest>): string => {
    try {
      new AnswerLimit(1024, tokenizer, 10_000).check(
        validRequest({ ...exactly(5000), ...over }),
        { returnTokenIds: true },
        bytesOfToken,
      );
    } catch (error) {
      return (error as Error).message;
    }
    return "";
  };
  t.match(refusal({}), /^The answer could have \d+ bytes \(5000 tokens, .*allows 1024\. Lower max_new_tokens\.$/);
  t.match(
    refusal({ n: 8, logprobs: 20, echo: true, prompts: [Int32Array.of(1), Int32Array.of(2)] }),
    /Lower logprobs, n, max_new_tokens, the number of prompts, or omit echo\.$/,
  );
  t.match(refusal({ bestOf: 4, logprobs: 0 }), /Lower best_of, max_new_tokens\.$/);
  t.match(refusal({ beams: { numBeams: 4, lengthPenalty: 1, earlyStopping: false } }), /Lower num_beams,/);
  t.equal(refusal(exactly(3)), "");
  t.end();
});

const LONG = {
  prompts: Array.from({ length: 8 }, () => "a".repeat(60)),
  max_new_tokens: 4,
  n: 4,
  do_sample: true,
  echo: true,
  logprobs: 20,
  seed: 1,
};
const LIMITS = { requestBody: 65_536, answer: 1 << 24, maxN: 4, slots: 8, queue: 256 };

t.test("a request is refused before any of it runs", async (t) => {
  const { fastify, engine } = await buildTestApp(t);
  engine.maxQueue = 64;
  t.match((await fastify.inject(post("/generate", LONG))).json(), {
    status: 422,
    code: "answer_too_large",
    detail: /Lower logprobs, n,/,
  });
  t.equal(engine.submitted.length, 0);
  t.match((await fastify.inject(post("/generate", { ...LONG, logprobs: 0 }))).json(), { choices: { length: 32 } });
});

t.test(
  "a long answer arrives whole, on a slow connection too, a chunk per turn of the event loop",
  { skip: lacking("thread-time") },
  async (t) => {
    const app = await buildTestApp(t, { limits: LIMITS });
    app.engine.maxQueue = 64;
    const port = await app.listen();
    const ask = async (): Promise<string> => readAll(await open(port, "/generate", LONG));
    const first = await ask();
    t.ok(first.length > 1e6, `${first.length} characters`);
    t.equal((JSON.parse(first) as { choices: unknown[] }).choices.length, 32);
    let share = Infinity;
    // The test's own reading of it is in the same turns.
    for (let attempt = 0; attempt < 3 && share > 1; attempt++)
      share = Math.min(share, (await longestTurn(ask)) / turnBudget());
    t.ok(share <= 1, `the longest turn took ${(100 * share).toFixed(0)} % of the budget`);
    const short = await open(port, "/generate", { prompt: "ab", max_new_tokens: 1 });
    t.ok(Number(short.headers["content-length"]) > 0, "an ordinary one says how long it is");
    t.equal(short.headers["content-type"], "application/json; charset=utf-8");
    await readAll(short);
    const slow = await open(port, "/generate", LONG);
    let text = "";
    for await (const chunk of slow) {
      text += String(chunk);
      if (text.length % 7 === 0) await new Promise((resolve) => setTimeout(resolve, 2));
    }
    const withoutId = (json: string): string => json.replace(/gen-[0-9a-f-]+/, "");
    t.equal(withoutId(text), withoutId(first));
  },
);

t.test("an error while a long answer is written cuts the connection, so half of it does not look whole", async (t) => {
  let mayEmit = true;
  const app = await buildTestApp(t, { limits: LIMITS, stream: { ...STREAM_DEFAULTS, mayEmit: () => mayEmit } });
  app.engine.maxQueue = 64;
  const outgoing = request({
    agent: false,
    host: "127.0.0.1",
    port: await app.listen(),
    path: "/generate",
    method: "POST",
    headers: { "content-type": "application/json" },
  });
  outgoing.end(JSON.stringify(LONG));
  const [response] = (await once(outgoing, "response")) as [IncomingMessage];
  t.equal(response.statusCode, 200);
  await once(response, "readable");
  mayEmit = false;
  let text = "";
  await t.rejects(
    async () => {
      for await (const chunk of response) text += String(chunk);
    },
    { code: "ECONNRESET" },
  );
  t.notOk(response.complete);
  t.throws(() => JSON.parse(text) as unknown);
  await until(() => app.traffic.open === 0);
});

t.test(
  "a long echoed prompt comes in several events, at the reader's pace",
  { skip: lacking("thread-time") },
  async (t) => {
    // So that what comes is more than may wait.
    const app = await buildTestApp(t, {
      limits: LIMITS,
      stream: { ...STREAM_DEFAULTS, bufferLimit: 1024 },
      clients: { ...CLIENT_DEFAULTS, sendMs: 5000 },
    });
    app.engine.maxQueue = 64;
    const port = await app.listen();
    const body = { ...LONG, stream: true };
    const whole = JSON.parse(await readAll(await open(port, "/generate", LONG))) as {
      choices: { text: string; logprobs: object }[];
    };
    const read = async (pauseMs: number): Promise<void> => {
      const response = await open(port, "/generate", body);
      let text = "";
      for await (const chunk of response) {
        text += String(chunk);
        if (pauseMs > 0) await new Promise((resolve) => setTimeout(resolve, pauseMs));
      }
      const events = parseSse(text);
      t.equal(events.at(-1)?.data, "[DONE]");
      t.ok(Math.max(...events.map(({ data }) => data.length)) < 3 * CHUNK_SIZE);
      const choices = whole.choices.map(() => ({
        text: "",
        token: [] as unknown[],
        top: [] as unknown[],
        reason: null as string | null,
      }));
      for (const { data } of events.slice(0, -1)) {
        for (const delta of (
          JSON.parse(data) as {
            choices: {
              index: number;
              text: string;
              logprobs: { token_logprobs: unknown[]; top_logprobs: unknown[] };
              finish_reason: string | null;
            }[];
          }
        ).choices) {
          const choice = choices[delta.index]!;
          t.equal(choice.reason, null);
          choice.text += delta.text;
          choice.token.push(...delta.logprobs.token_logprobs);
          choice.top.push(...delta.logprobs.top_logprobs);
          choice.reason = delta.finish_reason;
        }
      }
      t.same(
        choices.map(({ text, token, top, reason }) => ({
          text,
          logprobs: { token_logprobs: token, top_logprobs: top },
          finish_reason: reason,
        })),
        whole.choices.map(({ text, logprobs }) => ({ text, logprobs, finish_reason: "length" })),
      );
      t.match(JSON.parse(events.at(-2)!.data), { usage: { completion_tokens: 128 } });
    };
    await read(0);
    await read(1);
    let share = Infinity;
    for (let attempt = 0; attempt < 3 && share > 1; attempt++)
      share = Math.min(
        share,
        (await longestTurn(async () => readAll(await open(port, "/generate", body)))) / turnBudget(),
      );
    t.ok(share <= 1, `the longest turn took ${(100 * share).toFixed(0)} % of the budget`);
  },
);

t.test("a client that leaves or stops reading during a long echo frees the request", async (t) => {
  const app = await buildTestApp(t, {
    limits: { ...LIMITS, answer: 1 << 28 },
    stream: { ...STREAM_DEFAULTS, heartbeatMs: 50, sendMs: 300 },
  });
  app.engine.maxQueue = 64;
  const port = await app.listen();
  // More than the system takes of what nobody reads.
  const body = JSON.stringify({ ...LONG, prompts: Array.from({ length: 64 }, () => LONG.prompts[0]), stream: true });
  const head = `POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n`;
  for (const leaves of [true, false]) {
    const socket = connect(port, "127.0.0.1").on("error", () => undefined);
    t.teardown(() => socket.destroy());
    socket.write(head + body);
    if (leaves) {
      await once(socket, "data");
      socket.destroy();
    } else socket.pause();
    await until(() => app.traffic.open === 0 && app.logs.some((line) => line.includes('"aborted":true')));
    t.equal(
      app.logs.filter((line) => line.includes('"aborted":true')).length,
      1,
      leaves ? "who leaves" : "who reads nothing",
    );
    app.logs.splice(0);
  }
});
