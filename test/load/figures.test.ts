/** Recorder, criteria, comparison and the server's metrics, by hand-made numbers. */
import t from "tap";
import type { CallRecord } from "../../src/load/client.ts";
import { judge } from "../../src/load/criteria.ts";
import type { LoadUser } from "../../src/load/population.ts";
import { jainIndex, Recorder } from "../../src/load/recorder.ts";
import { compare, compareText } from "../../src/load/report/compare.ts";
import { resultText } from "../../src/load/report/text.ts";
import { parseMetrics, queueTimes, slopeOf } from "../../src/load/server-metrics.ts";
import { scenarioOf, STREAMS } from "./options.ts";
import { sampleResult } from "./sample-result.ts";

const ANN: LoadUser = { label: "ann", group: "g", weight: 1, key: null };
const BOB: LoadUser = { label: "bob", group: "g", weight: 2, key: null };
const scenario = scenarioOf([
  { name: "g", users: 2, arrivals: { process: "closed", steps: [{ for_s: 10, clients: 1 }] }, requests: STREAMS },
]);

function record(
  times: { intended: number; sent?: number; first?: number | null; end: number; gaps?: number[] },
  code = "ok",
): CallRecord {
  const { intended, sent = intended, first = null, end, gaps = [] } = times;
  return {
    intendedAt: intended,
    sentAt: sent,
    firstTokenAt: first,
    endedAt: end,
    gaps,
    choices: 1,
    code,
    retryAfterS: null,
    tokens: gaps.length + 1,
    answer: { tokenIds: [], logprobs: [], text: "", finishReason: null },
    prefix: null,
  };
}

t.test("the recorder counts from the intended start, and sorts outcomes", async (t) => {
  const recorder = new Recorder(scenario, [ANN, BOB], 10, 0);
  const take = (user: LoadUser, one: CallRecord, more = { provoked: false, slow: false }): void => {
    recorder.offered(one.intendedAt);
    recorder.tokens(user, 4, one.endedAt);
    recorder.ended(one, { user, ...more });
  };
  take(ANN, record({ intended: 0, sent: 50, first: 60, end: 100, gaps: [10, 30] }));
  take(ANN, record({ intended: 1000, first: 1500, end: 1600, gaps: [50, 50] }));
  take(BOB, record({ intended: 2000, end: 2050 }));
  take(BOB, record({ intended: 2500, end: 2501 }, "queue_full"));
  take(BOB, record({ intended: 3000, end: 3001 }, "removed"), { provoked: true, slow: false });
  take(BOB, record({ intended: 3500, first: 9000, end: 9500 }), { provoked: false, slow: true });
  const { ttft, inter_token, end_to_end } = recorder.all.latencies();
  t.same([ttft.count, ttft.p50, ttft.max].map(Math.round), [2, 60, 500]);
  t.same([inter_token.count, Math.round(inter_token.p50), Math.round(inter_token.max)], [4, 30, 50]);
  t.equal(end_to_end.count, 3, "a slow reader's times are its own");
  t.equal(Math.round(recorder.sendDelay.at(100)), 50);
  t.match(recorder.all.counts(), {
    requests: 6,
    ok: 4,
    tokens: 24,
    errors: { queue_full: 1 },
    provoked: { removed: 1 },
    within_slo: 2,
    goodput: 0.5,
  });
  t.match(recorder.users(), [
    { user: "ann", requests: 2, ok: 2, tokens: 8, goodput: 0.5 },
    { user: "bob", requests: 4, ok: 2, tokens: 16, goodput: 0.5 },
  ]);
  t.equal(recorder.groups()[0]!.jain, 1, "8 tokens at weight 1, 16 at weight 2");
  const series = recorder.series();
  t.equal(series.reduce((sum, bucket) => sum + bucket.offered, 0) * 0.25, 6);
  t.equal(Math.round(series.reduce((sum, bucket) => sum + bucket.tokens, 0) * 0.25), 24);
  t.match(series[0], { at_s: 0, offered: 4, completed: 4, ttft_p50: Number });
  t.match(series[6], { at_s: 1.5, offered: 0, completed: 4, ttft_p50: Number });
  t.match(series[8], { at_s: 2, completed: 4, ttft_p50: null });
});

t.test("refusals are timed from sending; recovery is twenty requests in a row within the SLO", async (t) => {
  const spike = scenarioOf(
    [
      {
        name: "g",
        arrivals: {
          process: "poisson",
          steps: [
            { for_s: 1, rate: 9 },
            { for_s: 4, rate: 1 },
          ],
        },
        requests: STREAMS,
      },
    ],
    { pass: { recovery_s: 1 } },
  );
  const run = (late: (at: number) => boolean): Recorder => {
    const recorder = new Recorder(spike, [ANN], 5, 0);
    for (let at = 0; at < 5000; at += 50) {
      recorder.offered(at);
      const one = late(at)
        ? record({ intended: at, sent: at + 30, end: at + 40 }, "queue_full")
        : record({ intended: at, first: at + 1, end: at + 2 });
      recorder.ended(one, { user: ANN, provoked: false, slow: false });
    }
    return recorder;
  };
  t.equal(run((at) => at < 2500).recoveryS(), 1.5, "the last step begins after one second");
  t.equal(run((at) => at < 2500 || at === 3000).recoveryS(), 2.05, "ten in a row are not enough");
  t.equal(run((at) => at < 900).recoveryS(), 0);
  t.equal(run((at) => at % 500 === 0).recoveryS(), null, "never");
  t.equal(Math.round(run((at) => at < 2500).refused.at(99)), 10);
});

t.test("leftovers are counted for the server with most", async (t) => {
  const result = sampleResult();
  const rest = { open_files: 20, active_resources: 8, event_listeners: 12 };
  const grown = {
    ...result.servers[0]!,
    at_rest: { before: rest, after: { ...rest, open_files: 26, event_listeners: 9 } },
  };
  const same = { ...grown, at_rest: { before: rest, after: rest } };
  t.match(judge({ left_over: 5 }, { ...result, servers: [same, grown] }).slice(1), [
    { name: "open files left over", value: 6, passed: false },
    { name: "active resources left over", value: 0, passed: true },
    { name: "event listeners left over", value: 0, passed: true },
  ]);
  t.match(judge({ left_over: 5 }, result).slice(1), [{ value: null, passed: false }, {}, {}], "not measured");
});

t.test("Jain's index", async (t) => {
  t.equal(jainIndex([3, 3, 3]), 1);
  t.equal(jainIndex([1, 0, 0, 0]), 0.25);
  t.equal(jainIndex([]), 1);
});

t.test("criteria are met, not met, or not measured, which counts as not met", async (t) => {
  const result = sampleResult();
  const of = (pass: Parameters<typeof judge>[0]): Record<string, boolean> =>
    Object.fromEntries(judge(pass, result).map(({ name, passed }) => [name, passed]));
  t.same(of({}), { "wrong answers": true });
  t.same(
    of({
      ttft_p99_ms: 40,
      end_to_end_p99_ms: 1,
      goodput: 0.8,
      jain: 0.99,
      tokens_per_s: 1,
      min_compared: 100,
      client_lag_p99_ms: 1,
      memory_slope_mib_per_min: 100,
    }),
    {
      "wrong answers": true,
      "TTFT p99, ms": true,
      "end to end p99, ms": false,
      goodput: true,
      jain: true,
      "tokens per second": true,
      "answers compared": false,
      "client lag p99, ms": false,
      "memory slope, MiB per minute": false,
    },
  );
  t.same(of({ error_rate: { queue_full: 0.05, "*": 0 } }), {
    "wrong answers": true,
    "error rate queue_full": false,
    "error rate (other codes)": true,
  });
  t.same(of({ error_rate: { "*": 0.1 }, groups: { g: { ttft_p99_ms: 1 } } }), {
    "wrong answers": true,
    "error rate (other codes)": true,
    "g: TTFT p99, ms": false,
  });
  t.match(judge({}, { ...result, verification: { ...result.verification, wrong: 1 } }), [
    { name: "wrong answers", passed: false },
  ]);
  t.match(resultText(result), /pass {2}wrong answers[\s\S]*PASSED/);
});

t.test("comparing two runs", async (t) => {
  const a = sampleResult();
  const b = { ...a, totals: { ...a.totals, tokens_per_s: a.totals.tokens_per_s / 2 } };
  t.match(
    compare(a, b).find(({ name }) => name === "tokens per second"),
    { a: a.totals.tokens_per_s, b: a.totals.tokens_per_s / 2, better: "more" },
  );
  const text = compareText(compare(a, b), ["before", "after"]);
  t.match(text, /tokens per second .* -50\.0 % \(worse\)/);
  t.match(text, /requests per second .* same\n/);
});

t.test("the server's metrics", async (t) => {
  const at = (count: number, small: number, sum: number): Map<string, number> =>
    parseMetrics(
      `# HELP prefixd_queue_seconds Time\nprefixd_queue_seconds_bucket{le="0.01"} ${small}\nprefixd_queue_seconds_bucket{le="0.5"} ${count}\nprefixd_queue_seconds_bucket{le="+Inf"} ${count}\nprefixd_queue_seconds_sum ${sum}\nprefixd_queue_seconds_count ${count}\n`,
    );
  t.same(queueTimes(at(10, 10, 1), at(110, 70, 21)), { count: 100, mean: 200, p50: 10, p99: 500 });
  t.equal(queueTimes(at(10, 10, 1), at(10, 10, 1)), null);
  t.equal(queueTimes(null, null), null);
  t.equal(
    slopeOf([
      [0, 5],
      [1, 7],
      [2, 9],
    ]),
    2,
  );
  t.equal(
    slopeOf([
      [1, 5],
      [1, 7],
    ]),
    0,
  );
});
