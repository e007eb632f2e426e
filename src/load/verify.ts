import { generate, type CallRecord, type GenerateBody, type GeneratedChoice } from "./client.ts";
import type { Version } from "./digest-history.ts";
import { drawLength } from "./distributions.ts";
import { LoadError, type Target } from "./http.ts";
import type { LoadPrefix } from "./population.ts";
import { below, fork } from "./random.ts";
import type { Verification, WrongAnswer } from "./result.ts";
import type { Scenario } from "./scenario.ts";

/** Wrong answers that are kept in full. */
const EXAMPLES = 20;

/** A greedy request and what it was answered alone, by the digest it was answered with (`""`: the bare base model). */
export interface Case {
  readonly prefix: LoadPrefix | null;
  readonly body: GenerateBody;
  readonly expected: Map<string, GeneratedChoice>;
}

/** One request of the load, as far as checking its answer needs. */
export interface Asked {
  readonly prefix: LoadPrefix | null;
  readonly case: Case | null;
  readonly body: GenerateBody;
  readonly url: string;
}

/** Compares answers with those of the same requests alone, and digests with what was registered. */
export class Verifier {
  readonly cases: Case[];
  readonly #staleMs: number;
  readonly #examples: WrongAnswer[] = [];
  #startedAt = performance.now();
  #compared = 0;
  #tokens = 0;
  #digests = 0;
  #wrong = 0;

  /** `staleMs`: how long a replica may serve a version after the change to another has been answered. */
  constructor(cases: Case[], staleMs: number) {
    this.cases = cases;
    this.#staleMs = staleMs;
  }

  /** From here on wrong answers are timed. */
  start(at: number): void {
    this.#startedAt = at;
  }

  /** Asks every case by itself, one after the other, and keeps the answers for the digests they came with. Throws LoadError. */
  async learn(
    cases: readonly Case[],
    target: Target,
    key: string | null,
    timeoutMs: number,
    signal: AbortSignal,
  ): Promise<void> {
    for (const one of cases) {
      const record = await generate({ target, key, body: one.body, intendedAt: performance.now(), timeoutMs, signal });
      if (signal.aborted) throw new LoadError("ended by hand before the load");
      if (record.code !== "ok")
        throw new LoadError(`a case that was run alone failed with ${record.code}: ${JSON.stringify(one.body)}`);
      this.check({ ...one, case: null, url: target.url }, record);
      one.expected.set(record.prefix?.digest ?? "", record.answer);
    }
  }

  /** Asks every case once more, alone. A prefix that a failed change has left missing is passed over. */
  async repeat(target: Target, key: string | null, timeoutMs: number): Promise<void> {
    for (const one of this.cases) {
      const record = await generate({ target, key, body: one.body, intendedAt: performance.now(), timeoutMs });
      const asked = { ...one, case: one, url: target.url };
      if (record.code === "ok") this.check(asked, record);
      else if (!this.possible(asked, record).includes(null))
        this.wrong(
          { what: "after the load a case alone failed", expected: "ok", got: record.code },
          target.url,
          one.body,
        );
    }
  }

  /** All versions that the request may have met. */
  possible({ prefix }: Asked, record: CallRecord): Version[] {
    return prefix === null
      ? [null]
      : prefix.history.between(record.sentAt - this.#staleMs, record.firstTokenAt ?? record.endedAt);
  }

  /** Checks one answer; false: it is wrong. An answer that ended early is checked as far as it came. */
  check(asked: Asked, record: CallRecord): boolean {
    if (record.code !== "ok" && (record.code !== "removed" || record.prefix === null)) return true;
    const problem = this.#digestProblem(asked, record) ?? this.#answerProblem(asked, record);
    if (problem === null) return true;
    this.wrong(problem, asked.url, asked.body);
    return false;
  }

  /** Something that no server may answer. */
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
        : { what: "the bare base model was asked, and a prefix answered", expected: null, got: prefix };
    if (prefix === null)
      return { what: "a prefix was asked, and the bare base model answered", expected: asked.prefix.id, got: null };
    if (prefix.id !== asked.prefix.id)
      return { what: "another prefix answered", expected: asked.prefix.id, got: prefix };
    const possible = this.possible(asked, record);
    if (possible.includes(prefix.digest)) return null;
    return { what: "the prefix's digest is none that was registered at that time", expected: possible, got: prefix };
  }

  #answerProblem({ case: one, body }: Asked, record: CallRecord): Problem | null {
    const asked = body.max_new_tokens * (body.n ?? 1);
    if (record.code === "ok" && record.tokens !== asked)
      return { what: "the answer has another number of tokens", expected: asked, got: record.tokens };
    const expected = one?.expected.get(record.prefix?.digest ?? "");
    if (expected === undefined) return null;
    this.#compared++;
    this.#tokens += record.answer.tokenIds.length;
    const got = record.answer;
    if (got.tokenIds.some((id, index) => id !== expected.tokenIds[index]))
      return { what: "other tokens than alone", expected, got };
    if (
      got.logprobs.length !== got.tokenIds.length ||
      got.logprobs.some((value, index) => value !== expected.logprobs[index])
    )
      return { what: "other log probabilities than alone", expected, got };
    if (record.code === "removed") return null;
    if (got.tokenIds.length !== expected.tokenIds.length)
      return { what: "another number of tokens than alone", expected, got };
    if (got.text !== expected.text) return { what: "another text than alone", expected, got };
    if (got.finishReason !== expected.finishReason) return { what: "another finish reason than alone", expected, got };
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

/** Greedy cases over the prefixes: half of them on those that will change, if any do. The last one asks the base model, if the load does. */
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
      ignore_eos: true,
      logprobs: 0,
      return_token_ids: true,
      ...(prefix ? { prefix_id: prefix.id } : {}),
    };
    return { prefix, body, expected: new Map() };
  });
}
