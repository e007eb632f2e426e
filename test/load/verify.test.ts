import t from "tap";
import type { CallRecord, GeneratedChoice } from "../../src/load/client.ts";
import { DigestHistory } from "../../src/load/digest-history.ts";
import type { LoadPrefix } from "../../src/load/population.ts";
import { Verifier, type Case } from "../../src/load/verify.ts";

const now = (): number => performance.now();

t.test("a version is accepted while it may be there", async (t) => {
  const history = new DigestHistory("a");
  const start = now();
  t.same(history.between(start, start), ["a"]);
  const change = history.begin("b");
  const during = now();
  t.same(history.between(during, during), ["a", "b"], "under way: both");
  change.done();
  await new Promise((resolve) => setTimeout(resolve, 2));
  const after = now();
  t.same(history.between(after, after), ["b"]);
  t.same(history.between(start, after), ["a", "b"], "a request from before may have either");
  t.same(history.between(start, start), ["a"]);
  history.begin("c").refused();
  await new Promise((resolve) => setTimeout(resolve, 2));
  t.same(history.between(now(), now()), ["b"], "a refused change leaves the old one");
  history.begin(null);
  t.same(history.between(now(), Infinity), ["b", null], "nobody knows how it ended: both from then on");
  history.begin("d").done();
  await new Promise((resolve) => setTimeout(resolve, 2));
  t.same(history.between(now(), Infinity), ["d"]);
  history.forget(now());
  t.same(history.between(-Infinity, Infinity), ["d"]);
});

const prefix: LoadPrefix = {
  name: "p",
  id: "p",
  poisoned: false,
  content: () => ({ type: "", bytes: new Uint8Array() }),
  history: new DigestHistory("d1"),
};
const expected: GeneratedChoice = {
  tokenIds: [5, 6, 7],
  logprobs: [-0.1, -0.2, -0.3],
  text: "abc",
  finishReason: "length",
};
const body = { prompt: [1], max_new_tokens: 3, ignore_eos: true, prefix_id: "p" } as const;
const known: Case = {
  prefix,
  body,
  expected: new Map([
    ["d1", expected],
    ["d2", { ...expected, tokenIds: [8, 9, 9] }],
  ]),
};

function record(answer: Partial<GeneratedChoice> = {}, more: Partial<CallRecord> = {}): CallRecord {
  return {
    intendedAt: now(),
    sentAt: now(),
    endedAt: now(),
    firstTokenAt: now(),
    gaps: [],
    choices: 1,
    code: "ok",
    retryAfterS: null,
    tokens: 3,
    answer: { ...expected, ...answer },
    prefix: { id: "p", digest: "d1" },
    ...more,
  };
}

/** What is found wrong with an answer; null: nothing. */
function finding(got: CallRecord, asked: Partial<Case> & { case?: Case | null } = {}): string | null {
  const verifier = new Verifier([known], 0);
  const right = verifier.check({ ...known, case: known, url: "http://server", ...asked }, got);
  const { wrong, examples } = verifier.summary();
  t.equal(wrong, right ? 0 : 1);
  return examples[0]?.what ?? null;
}

t.test("answers are compared to the bit, as far as they came", async (t) => {
  t.equal(finding(record()), null);
  t.equal(finding(record({ tokenIds: [5, 6, 8] })), "tokens differ from the run alone");
  t.equal(finding(record({ logprobs: [-0.1, -0.2, -0.3 - 2 ** -54] })), "log probabilities differ from the run alone");
  t.equal(finding(record({ logprobs: [-0.1, -0.2] })), "log probabilities differ from the run alone");
  t.equal(finding(record({ text: "abd" })), "text differs from the run alone");
  t.equal(finding(record({ finishReason: "eos" })), "finish reason differs from the run alone");
  t.equal(finding(record({}, { tokens: 2 })), "the number of tokens differs from the request");
  const removed = { code: "removed", tokens: 2 };
  t.equal(
    finding(record({ tokenIds: [5, 6], logprobs: [-0.1, -0.2], text: "ab", finishReason: "removed" }, removed)),
    null,
    "a removed one is right as far as it came",
  );
  t.equal(finding(record({ tokenIds: [5, 7], logprobs: [-0.1, -0.2] }, removed)), "tokens differ from the run alone");
  t.equal(finding(record({ tokenIds: [] }, { code: "queue_full", prefix: null })), null, "an error is not an answer");
  t.equal(
    finding(record({ tokenIds: [8, 9, 9] })),
    "tokens differ from the run alone",
    "another version's tokens under this digest",
  );
});

t.test("the answering prefix must be the requested one, in a version of that time", async (t) => {
  const none = { case: null };
  t.equal(finding(record({ tokenIds: [1, 2, 3] }), none), null, "without a case only the prefix is checked");
  t.equal(
    finding(record({}, { prefix: { id: "p", digest: "d2" } }), none),
    "the prefix's digest was not registered at that time",
  );
  t.equal(finding(record({}, { prefix: { id: "q", digest: "d1" } }), none), "another prefix answered");
  t.equal(finding(record({}, { prefix: null }), none), "a prefix was requested, but the bare base model answered");
  t.equal(finding(record(), { prefix: null, ...none }), "the bare base model was requested, but a prefix answered");
  const gone = { ...prefix, history: new DigestHistory(null) };
  t.equal(
    finding(record(), { prefix: gone, ...none }),
    "the prefix's digest was not registered at that time",
    "a deleted prefix answers nothing",
  );
});

t.test("a stale answer is allowed only as long as replicas may be stale", async (t) => {
  const history = new DigestHistory("d1");
  history.begin("d2").done();
  const at = now();
  const asked = { prefix: { ...prefix, history }, case: null, body, url: "http://server" };
  const late = (ms: number): CallRecord =>
    record({}, { sentAt: at + ms, firstTokenAt: at + ms + 1, endedAt: at + ms + 2 });
  t.ok(new Verifier([], 1000).check(asked, late(900)));
  t.notOk(new Verifier([], 1000).check(asked, late(1100)));
});
