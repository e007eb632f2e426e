/** A result made by the recorder out of a few hundred requests of made-up times. */
import type { CallRecord } from "../../src/load/client.ts";
import { Recorder } from "../../src/load/recorder.ts";
import { seededRandom } from "../../src/load/random.ts";
import { FORMAT, type LoadResult } from "../../src/load/result.ts";
import { scenarioOf, STREAMS } from "./options.ts";

export function sampleResult(): LoadResult {
  const scenario = scenarioOf([
    { name: "g", users: 2, arrivals: { process: "poisson", steps: [{ for_s: 10, rate: 40 }] }, requests: STREAMS },
  ]);
  const users = ["ann", "bob"].map((label) => ({ label, group: "g", weight: 1, key: null }));
  const recorder = new Recorder(scenario, users, 10, 0);
  const random = seededRandom(1);
  for (let i = 0; i < 400; i++) {
    const user = users[i % 2]!;
    const intendedAt = i * 25;
    const firstTokenAt = intendedAt + 10 + 20 * random();
    const record: CallRecord = {
      intendedAt,
      sentAt: intendedAt,
      firstTokenAt,
      endedAt: firstTokenAt + 20,
      gaps: [10, 10 * random()],
      choices: 1,
      code: i % 10 === 0 ? "queue_full" : "ok",
      retryAfterS: null,
      tokens: 3,
      answer: { tokenIds: [], logprobs: [], text: "", finishReason: "length" },
      prefix: null,
    };
    recorder.offered(intendedAt);
    recorder.tokens(user, 3, record.endedAt);
    recorder.ended(record, { user, provoked: false, slow: false });
  }
  const counts = recorder.all.counts();
  return {
    format: FORMAT,
    scenario,
    urls: ["http://127.0.0.1:8080"],
    started_at: "2026-01-31T12:00:00.000Z",
    seconds: 10,
    warnings: [],
    stream_lumps: recorder.lumps.result(),
    notes: ['A note with <b> & "quotes".'],
    client: { node: "v20.0.0", cpus: 2, lag_p50: 0.5, lag_p99: 3, lag_max: 9, send_delay_p99: 2, most_in_flight: 12 },
    model: null,
    capacity: null,
    registered: { prefixes: 4, kind: "hard", seconds: 0.1 },
    totals: {
      ...counts,
      requests_per_s: counts.ok / 10,
      tokens_per_s: counts.tokens / 10,
      goodput_per_s: counts.within_slo / 10,
    },
    ...recorder.all.latencies(),
    refused: recorder.refused.quantiles(),
    recovery_s: null,
    groups: recorder.groups(),
    users: recorder.users(),
    series: recorder.series(),
    servers: [
      {
        url: "http://127.0.0.1:8080",
        problem: null,
        samples: [0, 5, 10].map((at_s) => ({
          at_s,
          rss_mib: 100 + at_s,
          in_use_mib: 50 + at_s,
          queue_depth: at_s,
          running: 3,
        })),
        queue: { count: 10, mean: 5, p50: 2, p99: null },
        memory_slope_mib_per_min: null,
        at_rest: { before: null, after: null },
      },
    ],
    churn: { replaced: 3 },
    verification: { cases: 4, compared: 40, tokens: 120, digests: 300, wrong: 0, examples: [] },
    criteria: [{ name: "wrong answers", limit: "<= 0", value: 0, passed: true }],
    passed: true,
  };
}
