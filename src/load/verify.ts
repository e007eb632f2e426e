import { generate, PLAIN, type CallRecord, type GenerateBody, type GeneratedChoice } from "./client.ts";
import type { Version } from "./digest-history.ts";
import { drawLength } from "./distributions.ts";
import { LoadError, type Target } from "./http.ts";
import type { LoadPrefix } from "./population.ts";
import { below, fork } from "./random.ts";
import type { Verification, WrongAnswer } from "./result.ts";
import type { Scenario } from "./scenario.ts";

/** Wrong answers kept in full. */
const EXAMPLES = 20;

/** A greedy request and its answers when run alone, by the digest each came with (`""`: the bare base model). */
export interface Case {
  readonly prefix: LoadPrefix | null;
  readonly body: GenerateBody;
  readonly expected: Map<string, GeneratedChoice>;
}

/** One request of the load, as needed to check its answer. */
export interface Asked {
  readonly prefix: LoadPrefix | null;
  readonly case: Case | null;
  readonly body: GenerateBody;
  readonly url: string;
}

/** Compares answers with the same requests run alone, and digests with those registered. */
export class Verifier {
  readonly cases: Case[];
  readonly #staleMs: number;
  readonly #examples: WrongAnswer[] = [];
  #startedAt = performance.now();
  #compared = 0;
  #tokens = 0;
  #digests = 0;
  #wrong = 0;

  /** @param staleMs how long a replica may serve a version after its replacement was answered */
  constructor(cases: Case[], staleMs: number) {
    this.cases = cases;
    this.#staleMs = staleMs;
  }

  /** Sets the time that wrong answers are timed from. */
  start(at: number): void {
    this.#startedAt = at;
  }

  /**
   * Runs every case alone, one after the other, and keeps the answers by the digests they came with. Throws LoadError.
   */
  async learn(
    cases: readonly Case[],
    target: Target,
    key: string | null,
    timeoutMs: number,
    signal: AbortSignal,
  ): Promise<void> {
    for (const one of cases) {
      const record = await generate({ target, key, body: one.body, intendedAt: performance.now(), timeoutMs, signal });
      if (signal.aborted) throw new LoadError("interrupted before the load");
      if (record.code !== "ok")
        throw new LoadError(`a case run alone failed with ${record.code}: ${JSON.stringify(one.body)}`);
      this.check({ ...one, case: null, url: target.url }, record);
      one.expected.set(record.prefix?.digest ?? "", record.answer);
    }
  }

  /** Runs every case alone once more. Skips prefixes that a failed change left missing. */
  async repeat(target: Target, key: string | null, timeoutMs: number): Promise<void> {
    for (const one of this.cases) {
      const record = await generate({ target, key, body: one.body, intendedAt: performance.now(), timeoutMs });
      const asked = { ...one, case: one, url: target.url };
      if (record.code === "ok") this.check(asked, record);
      else if (!this.possible(asked, record).includes(null))
        this.wrong(
          { what: "a case run alone after the load failed", expected: "ok", got: record.code },
          target.url,
          one.body,
        );
    }
  }

  /** All versions that may have served the request. */
  possible({ prefix }: Asked, record: CallRecord): Version[] {
    return prefix === null
      ? [null]
      : prefix.history.between(record.sentAt - this.#staleMs, record.firstTokenAt ?? record.endedAt);
  }

  /** Checks an answer; returns false if it is wrong. One that ended early is checked as far as it got. */
  check(asked: Asked, record: CallRecord): boolean {
    if (record.code !== "ok" && (record.code !== "removed" || record.prefix === null)) return true;
    const problem = this.#digestProblem(asked, record) ?? this.#answerProblem(asked, record);
    if (problem === null) return true;
    this.wrong(problem, asked.url, asked.body);
    return false;
  }

  /** Records an answer that no correct server gives. */
  wrong(problem: Problem, url: string, request: object): void {
    this.#wrong++;
    if (this.#examples.length < EXAMPLES)
      this.#examples.push({ ...problem, at_s: (performance.now() - this.#startedAt) / 1000, url, request });
  }

  #digestProblem(asked: Asked, record: CallRecord): Problem | null {
    this.#digests++;
    const { prefix } = record;
    if (asked.prefix === null)
      return prefix === null
        ? null
        : { what: "the bare base model was requested, but a prefix answered", expected: null, got: prefix };
    if (prefix === null)
      return { what: "a prefix was requested, but the bare base model answered", expected: asked.prefix.id, got: null };
    if (prefix.id !== asked.prefix.id)
      return { what: "another prefix answered", expected: asked.prefix.id, got: prefix };
    const possible = this.possible(asked, record);
    if (possible.includes(prefix.digest)) return null;
    return { what: "the prefix's digest was not registered at that time", expected: possible, got: prefix };
  }

  #answerProblem({ case: one, body }: Asked, record: CallRecord): Problem | null {
    const asked = body.max_new_tokens * (body.n ?? 1);
    if (record.code === "ok" && record.tokens !== asked)
      return { what: "the number of tokens differs from the request", expected: asked, got: record.tokens };
    const expected = one?.expected.get(record.prefix?.digest ?? "");
    if (expected === undefined) return null;
    this.#compared++;
    this.#tokens += record.answer.tokenIds.length;
    const got = record.answer;
    if (got.tokenIds.some((id, index) => id !== expected.tokenIds[index]))
      return { what: "tokens differ from the run alone", expected, got };
    if (
      got.logprobs.length !== got.tokenIds.length ||
      got.logprobs.some((value, index) => value !== expected.logprobs[index])
    )
      return { what: "log probabilities differ from the run alone", expected, got };
    if (record.code === "removed") return null;
    if (got.tokenIds.length !== expected.tokenIds.length)
      return { what: "number of tokens differs from the run alone", expected, got };
    if (got.text !== expected.text) return { what: "text differs from the run alone", expected, got };
    if (got.finishReason !== expected.finishReason)
      return { what: "finish reason differs from the run alone", expected, got };
    return null;
  }

  summary(): Verification {
    return {
      cases: this.cases.length,
      compared: this.#compared,
      tokens: this.#tokens,
      digests: this.#digests,
      wrong: this.#wrong,
      examples: this.#examples,
    };
  }
}

export type Problem = Pick<WrongAnswer, "what" | "expected" | "got">;

/**
 * Draws greedy cases over the prefixes: half of them on prefixes that will change, if any do. The last one is for the
 * base model, if the load uses it.
 */
export function drawCases(
  scenario: Scenario,
  prefixes: readonly LoadPrefix[],
  changing: number,
  vocabulary: number,
): Case[] {
  const { cases: count, prompt_tokens, max_new_tokens } = scenario.verify;
  const random = fork(scenario.seed ?? 1, "cases");
  const withBase = scenario.groups.some(({ requests }) => (requests.base_model ?? 0) > 0);
  return Array.from({ length: count }, (_, index) => {
    const from = changing === 0 || (index % 2 === 1 && changing < prefixes.length) ? changing : 0;
    const to = from === 0 && changing > 0 ? changing : prefixes.length;
    const prefix = withBase && index === count - 1 ? null : prefixes[from + below(random, to - from)]!;
    const prompt = Array.from({ length: drawLength(prompt_tokens, random) }, () => below(random, vocabulary));
    const body: GenerateBody = {
      prompt,
      max_new_tokens: drawLength(max_new_tokens, random),
      ...PLAIN,
      logprobs: 0,
      return_token_ids: true,
      ...(prefix ? { prefix_id: prefix.id } : {}),
    };
    return { prefix, body, expected: new Map() };
  });
}
