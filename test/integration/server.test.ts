/** The whole server on the demo model: real process, store, graph, sockets. */
import { readdirSync, readFileSync } from "node:fs";
import { createConnection } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { adapterForm, startServerProcess, temporaryFolder, type Answer } from "../support/server.ts";

interface Showcase {
  readonly prompt: string;
  readonly max_new_tokens: number;
  readonly answers: Record<string, string>;
}
const showcases = JSON.parse(readFileSync("prefixes/showcase.json", "utf8")) as Showcase[];
const LONG = { prompt: "i want to book a flight", max_new_tokens: 400, ignore_eos: true };

const folder = temporaryFolder();
t.teardown(() => folder.remove());
const flags = ["--cache-dir", join(folder.path, "cache"), "--prefixes", "prefixes"];
const store = (name: string): string[] => ["--store", `lmdb:${join(folder.path, name)}`];

t.test("the demo answers", async (t) => {
  const server = await startServerProcess([...flags, ...store("demo")]);
  t.teardown(() => server.signal("SIGKILL"));

  t.test("one prompt under every prefix, in one batch", async (t) => {
    const cases = showcases.flatMap(({ prompt, max_new_tokens, answers }) =>
      Object.entries(answers).map(([name, answer]) => ({ prompt, max_new_tokens, name, answer })),
    );
    const results = await Promise.all(
      cases.map(({ name, prompt, max_new_tokens }) =>
        server.json("/generate", {
          prompt,
          max_new_tokens,
          prefix_id: name === "base" ? null : name,
          return_token_ids: true,
          logprobs: 0,
        }),
      ),
    );
    for (const [index, { name, answer }] of cases.entries()) {
      const { status, body } = results[index]!;
      t.equal(status, 200);
      t.equal(body.choices[0]!.text.trim(), answer, name);
      t.equal(body.prefix?.id ?? "base", name);
    }
  });

  t.test("a PEFT folder is uploaded, used, replaced and removed", async (t) => {
    const url = `${server.url}/prefixes/mine`;
    const created = await fetch(url, { method: "PUT", body: adapterForm("prefixes/intent") });
    t.equal(created.status, 201);
    const ask = { prompt: showcases[0]!.prompt, max_new_tokens: 40, prefix_id: "mine" };
    t.equal((await server.json("/generate", ask)).body.choices[0]!.text, " book flight");
    const replaced = await fetch(url, {
      method: "PUT",
      body: adapterForm("prefixes/datelong"),
      headers: { "if-match": created.headers.get("etag")! },
    });
    t.equal(replaced.status, 200);
    t.equal(
      (await server.json("/prefixes/mine/generate", { prompt: ask.prompt, max_new_tokens: 40 })).body.choices[0]!.text,
      " 14 August 2024",
    );
    t.equal((await fetch(url, { method: "DELETE" })).status, 204);
    t.equal((await server.json("/generate", ask)).status, 404);
  });

  t.test("a hard prompt equals its text in front of the prompt", async (t) => {
    const text = "three blind mice ,";
    const put = await fetch(`${server.url}/prefixes/hard`, {
      method: "PUT",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ text }),
    });
    t.equal(put.status, 201);
    const sent = { max_new_tokens: 12, ignore_eos: true, return_token_ids: true };
    const withPrefix = await server.json("/generate", { ...sent, prompt: " see how they run", prefix_id: "hard" });
    const inPrompt = await server.json("/generate", { ...sent, prompt: `${text} see how they run` });
    t.same(withPrefix.body.choices[0]!.token_ids, inPrompt.body.choices[0]!.token_ids);
  });

  t.test("SSE carries the same tokens as JSON, and seeds reproduce", async (t) => {
    const sampled = {
      prompt: "once upon a time",
      max_new_tokens: 24,
      do_sample: true,
      temperature: 0.8,
      seed: 42,
      n: 3,
      ignore_eos: true,
      return_token_ids: true,
    };
    const whole = (await server.json("/generate", sampled)).body.choices;
    const response = await fetch(`${server.url}/generate`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ ...sampled, stream: true }),
    });
    const events = (await response.text())
      .split("\n\n")
      .filter((event) => event.startsWith("data: {"))
      .map((event) => JSON.parse(event.slice(6)) as Answer);
    for (const choice of whole) {
      const parts = events.flatMap((event) => event.choices).filter((part) => part.index === choice.index);
      t.equal(parts.map((part) => part.text).join(""), choice.text);
      t.same(
        parts.flatMap((part) => part.token_ids ?? []),
        choice.token_ids,
      );
    }
    t.not(whole[0]!.text, whole[1]!.text);
  });

  t.test("beam scores are sorted, and are the mean log probabilities that scoring the text gives", async (t) => {
    const { prompt, answers } = showcases[0]!;
    const prefix_id = Object.keys(answers).find((name) => name !== "base")!;
    const common = { prefix_id, logprobs: 0, return_token_ids: true };
    const { choices } = (
      await server.json("/generate", { ...common, prompt, num_beams: 5, n: 5, max_new_tokens: 24, min_new_tokens: 3 })
    ).body;
    t.equal(new Set(choices.map(({ text }) => text)).size, 5);
    t.same(
      choices.map(({ score }) => score),
      choices.map(({ score }) => score).sort((a, b) => b! - a!),
    );
    const promptIds = (await server.json("/generate", { ...common, prompt, echo: true, max_new_tokens: 0 })).body
      .choices[0]!.token_ids;
    for (const { score, token_ids, logprobs } of choices) {
      const mean = logprobs!.token_logprobs.reduce<number>((sum, logprob) => sum + logprob!, 0) / token_ids.length;
      t.ok(Math.abs(score! - mean) < 1e-4, `${score} is ${mean}`);
      const scored = (
        await server.json("/generate", {
          ...common,
          prompt: [...promptIds, ...token_ids],
          echo: true,
          max_new_tokens: 0,
        })
      ).body.choices[0]!;
      t.same(scored.token_ids, [...promptIds, ...token_ids]);
      const again = scored.logprobs!.token_logprobs.slice(promptIds.length);
      t.ok(
        again.every((logprob, at) => Math.abs(logprob! - logprobs!.token_logprobs[at]!) < 1e-3),
        "the same log probabilities",
      );
    }
    const refused = await server.json("/generate", { prompt, num_beams: 9 });
    t.equal(refused.status, 400);
    t.equal(await server.metric("prefixd_running_sequences"), 0);
  });

  t.test("a client that leaves frees its slot", async (t) => {
    const socket = createConnection(Number(new URL(server.url).port), "127.0.0.1");
    const body = JSON.stringify({ ...LONG, stream: true });
    socket.write(
      `POST /generate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    );
    await new Promise((resolve) => socket.once("data", resolve));
    t.equal(await server.metric("prefixd_running_sequences"), 1);
    socket.destroy();
    for (let waited = 0; waited < 2000 && (await server.metric("prefixd_running_sequences")) > 0; waited += 10)
      await sleep(10);
    t.equal(await server.metric("prefixd_running_sequences"), 0);
    t.equal(await server.metric('prefixd_sequences_total{outcome="cancelled"}'), 1);
  });

  t.test("more requests than slots all get the right answer", async (t) => {
    const { prompt, answers } = showcases[0]!;
    const names = Object.keys(answers).filter((name) => name !== "base");
    const results = await Promise.all(
      Array.from({ length: 120 }, (_, index) =>
        server.json("/generate", { prompt, max_new_tokens: 40, prefix_id: names[index % names.length] }),
      ),
    );
    const wrong = results.filter(
      ({ body }, index) => body.choices[0]?.text.trim() !== answers[names[index % names.length]!],
    );
    t.same(wrong, []);
  });

  t.test("every metric named in the docs exists", async (t) => {
    const text = await (await fetch(`${server.url}/metrics`)).text();
    const served = new Set([...text.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name!));
    const documents = [
      "README.md",
      ...readdirSync("docs", { recursive: true, encoding: "utf8" })
        .filter((name) => name.endsWith(".md"))
        .map((name) => join("docs", name)),
    ];
    let named = 0;
    for (const document of documents) {
      // Skips variables ($) of proxy configurations.
      for (const [name] of readFileSync(document, "utf8").matchAll(
        /(?<![\w$])(?:prefixd|nodejs|process)_[a-z0-9_]+/g,
      )) {
        named++;
        t.ok(served.has(name) || served.has(name.replace(/_(bucket|sum|count)$/, "")), `${document}: ${name}`);
      }
    }
    t.ok(named > 30, `${named} of them`);
    const gauge = await server.metric("nodejs_eventloop_lag_p99_seconds");
    t.ok(gauge >= 0, "the one to set an alarm on has a value");
  });

  t.test("SIGTERM lets running streams end, refuses new work, exits 0", async (t) => {
    const running = server.json("/generate", LONG);
    await sleep(50);
    server.signal("SIGTERM");
    const { status, body } = await running;
    t.equal(status, 200);
    t.equal(body.usage.completion_tokens, LONG.max_new_tokens);
    t.equal(await server.exited, 0);
    await t.rejects(fetch(`${server.url}/health/live`));
  });

  t.test("the log has no prompt text and a request id on every request", async (t) => {
    const text = JSON.stringify(server.log);
    for (const secret of ["flight", "blind mice", "once upon"]) t.notOk(text.includes(secret), secret);
    const requests = server.log.filter((entry) => entry["msg"] === "request");
    t.ok(requests.length > 100);
    t.ok(requests.every((entry) => typeof entry["request_id"] === "string"));
  });
});

t.test("requests that outlast the drain end properly", async (t) => {
  const server = await startServerProcess([...flags, ...store("drain"), "--drain-timeout", "0.2"]);
  t.teardown(() => server.signal("SIGKILL"));
  // More requests than slots: some run, some wait. A connection not yet accepted would see a closed port instead.
  const all = Promise.all(Array.from({ length: 100 }, () => server.json("/generate", LONG)));
  const METRICS = ["prefixd_queue_depth", "prefixd_running_sequences", 'prefixd_sequences_total{outcome="length"}'];
  for (let taken = 0; taken < 100; ) {
    await sleep(10);
    const figures = await Promise.all(METRICS.map((name) => server.metric(name)));
    taken = figures.reduce((sum, figure) => sum + (figure || 0), 0);
  }
  server.signal("SIGTERM");
  const results = await all;
  for (const { status, body } of results) {
    if (status === 200) t.equal(body.usage.completion_tokens, LONG.max_new_tokens);
    else t.match({ status, body }, { status: 503, body: { code: "draining" } });
  }
  t.ok(results.some(({ status }) => status === 503));
  t.equal(await server.exited, 0);
});

t.test("a full queue answers 429 with Retry-After", async (t) => {
  const server = await startServerProcess([
    ...flags,
    ...store("queue"),
    "--max-batch",
    "1",
    "--max-queue",
    "2",
    "--drain-timeout",
    "0",
  ]);
  t.teardown(async () => {
    server.signal("SIGTERM");
    await server.exited;
  });
  const responses = await Promise.all(
    Array.from({ length: 8 }, () =>
      fetch(`${server.url}/generate`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ ...LONG, max_new_tokens: 60 }),
      }),
    ),
  );
  const refused = responses.filter(({ status }) => status === 429);
  t.ok(refused.length >= 4, `${refused.length} refused`);
  t.ok(responses.filter(({ status }) => status === 200).length >= 2);
  for (const response of refused) {
    t.match(response.headers.get("retry-after"), /^\d+$/);
    t.match(await response.json(), { code: "queue_full", status: 429 });
  }
});
