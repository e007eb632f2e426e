/**
 * How many streams can the load tester follow before it becomes the bottleneck?
 *
 *     npm run bench -- load
 *
 * And how does a server do under each scenario? All of them: `SCENARIOS=all`; a colon and seconds change one's
 * duration, PREFIXES sets how many they register, SERVE has more flags for the server. Rows of scenarios that are not
 * run stay.
 *
 *     SCENARIOS=spike,steady:60,soak:1800 npm run bench -- load
 *
 * A trivial server in a second process sends each stream a token every 100 ms; streams start one after the other over 5
 * s and last 15 s. Anything above 100 ms between tokens is added by client, server and machine; the client's share
 * shows as its lag.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { runLoad } from "../src/load/run.ts";
import { SCENARIOS } from "../src/load/scenario.ts";
import { runScenarios } from "./support/load-scenarios.ts";
import { machine, readSection, rowsOf, table, writeSection } from "./support/report.ts";

const TOKEN_MS = 100;
const TOKENS = 150;
const BEGIN_S = 5;

const { SCENARIOS: wanted, PREFIXES, SERVE } = process.env;
if (wanted === undefined) await measureClient();
else {
  const run = await runScenarios({
    names: wanted === "all" ? SCENARIOS : wanted.split(","),
    ...(PREFIXES === undefined ? {} : { prefixes: Number(PREFIXES) }),
    serve: SERVE === undefined ? [] : SERVE.split(" "),
  });
  const kept = rowsOf(readSection("load-scenarios")).filter(([name]) => !run.rows.some(([ran]) => ran === name));
  const place = (row: readonly string[]): number => SCENARIOS.findIndex((name) => name === row[0]);
  const rows = [...kept, ...run.rows].sort((a, b) => place(a) - place(b));
  const lines = [
    `Demo model, server and clients on the same machine, each scenario against a server of its own; times in milliseconds. ${machine()}.`,
    "",
    ...table(run.head, rows),
  ];
  if (process.env["DRY"] === undefined) writeSection("load-scenarios", lines);
  else process.stdout.write(`${lines.join("\n")}\n`);
}

async function measureClient(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "prefixd-bench-"));
  const server = spawn(
    process.execPath,
    [
      "--import",
      "tsx",
      new URL("../test/load/fake-prefixd-process.ts", import.meta.url).pathname,
      "0",
      String(TOKEN_MS),
    ],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  try {
    const [url] = (await once(createInterface({ input: server.stdout }), "line")) as [string];
    const rows: string[][] = [];
    for (const streams of [100, 500, 1000, 2000]) {
      const trace = join(folder, `${streams}.jsonl`);
      writeFileSync(
        trace,
        Array.from({ length: streams }, (_, index) =>
          JSON.stringify({ at_s: (index * BEGIN_S) / streams, prompt_tokens: 16, max_new_tokens: TOKENS }),
        ).join("\n"),
      );
      const cpu = process.cpuUsage();
      const result = await runLoad({
        scenario: {
          name: "client",
          description: "",
          prefixes: { count: 1, virtual_tokens: 1, popularity: "uniform" },
          groups: [{ name: "streams", arrivals: { process: "trace" }, requests: { trace } }],
          verify: { cases: 0, share: 0, prompt_tokens: 1, max_new_tokens: 1 },
          slo: { ttft_ms: 1000, inter_token_ms: 1000 },
          pass: { error_rate: { "*": 0 } },
        },
        urls: [url],
        credentials: { adminKey: null, userKey: null },
        model: { shape: null, vocabulary: 256 },
        timeoutMs: 120_000,
        staleMs: 0,
        signal: new AbortController().signal,
        onPhase: () => undefined,
        onProgress: () => undefined,
      });
      if (!result.passed) throw new Error(JSON.stringify(result.totals));
      const { user, system } = process.cpuUsage(cpu);
      const { client, inter_token, totals } = result;
      const share = ((user + system) / 1e6 / result.seconds) * 100;
      const ms = (value: number): string => value.toFixed(1);
      rows.push([
        String(client.most_in_flight),
        totals.tokens_per_s.toFixed(0),
        `${share.toFixed(0)} %`,
        ms(client.lag_p50),
        ms(client.lag_p99),
        ms(inter_token.p50),
        ms(inter_token.p99),
      ]);
    }
    writeSection("load", [
      `A token every ${TOKEN_MS} ms a stream, from a trivial server in a second process on the same machine. Milliseconds. ${machine()}.`,
      "",
      ...table(
        [
          "streams at once",
          "tokens/s",
          "client's processor, of one core",
          "client lag p50",
          "p99",
          "between tokens p50",
          "p99",
        ],
        rows,
      ),
    ]);
  } finally {
    server.kill("SIGKILL");
    rmSync(folder, { recursive: true });
  }
}
