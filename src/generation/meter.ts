import type { RequestUsage } from "../users/usage.ts";
import type { TokenRate } from "../users/token-rate.ts";

export interface MeterParts {
  /** Called once for each accepted request and each fold, however it ended. */
  readonly usage?: { record(usage: RequestUsage): void };
  readonly tokenRate?: TokenRate;
}

/** How long a request waited and ran, in milliseconds. */
export interface Timings {
  readonly queueMs: number;
  /** Up to its first token, or to its prompt's scores where nothing is generated. */
  readonly prefillMs: number;
  /** From its first token to its last. */
  readonly decodeMs: number;
  /** The tokens after the first, by the time that they took; null if there are none. */
  readonly tokensPerSecond: number | null;
}

/** When a request entered its phases, by performance.now(); null: it never did. */
export interface PhaseTimes {
  readonly submittedAt: number;
  /** It left the queue. */
  readonly startedAt: number | null;
  readonly firstTokenAt: number | null;
  readonly endedAt: number;
}

export interface Metered {
  readonly user: string;
  readonly prefix: { readonly name: string } | null;
  readonly prompts: readonly { readonly length: number }[];
  /** The most that can be generated, over all prompts, choices and beams. */
  readonly mostNewTokens: number;
  /** As what it counts: 0 if it is no request to generate. */
  readonly requests?: 0 | 1;
}

/**
 * What one request uses: its time in the queue and in the model, and its tokens, for the bill and for the user's tokens
 * per minute. The most tokens it can use are reserved at admission, so that concurrent requests cannot all spend the
 * same ones; what is left at the end is given back.
 */
export class RequestMeter {
  readonly #request: Metered;
  readonly #parts: MeterParts;
  readonly #started: boolean[];
  #submittedAt = 0;
  #startedAt: number | null = null;
  #firstTokenAt: number | null = null;
  #lastTokenAt = 0;
  /** Tokens charged to the rate so far. */
  #reserved = 0;
  #completion = 0;

  constructor(request: Metered, parts: MeterParts) {
    this.#request = request;
    this.#parts = parts;
    this.#started = request.prompts.map(() => false);
  }

  /** @throws PrefixdError token_rate_exceeded */
  async admit(): Promise<void> {
    const tokens = this.#promptTokens(() => true) + this.#request.mostNewTokens;
    await this.#parts.tokenRate?.admit(this.#request.user, tokens);
    this.#reserved = tokens;
  }

  /** It was not accepted after all. */
  refuse(): void {
    this.#charge(-this.#reserved);
  }

  submitted(): void {
    this.#submittedAt = performance.now();
  }

  /** Prompt `index` left the queue. May be called more than once. */
  started(index: number): void {
    this.#startedAt ??= performance.now();
    this.#started[index] = true;
  }

  generated(tokens: number): void {
    this.#lastTokenAt = performance.now();
    this.#firstTokenAt ??= this.#lastTokenAt;
    this.#completion += tokens;
  }

  /** Tokens generated so far. */
  get completion(): number {
    return this.#completion;
  }

  /** Call when all of its tokens have come. */
  timings(): Timings {
    const now = performance.now();
    const startedAt = this.#startedAt ?? now;
    const firstAt = this.#firstTokenAt ?? now;
    const decodeMs = this.#firstTokenAt === null ? 0 : this.#lastTokenAt - this.#firstTokenAt;
    return {
      queueMs: startedAt - this.#submittedAt,
      prefillMs: firstAt - startedAt,
      decodeMs,
      tokensPerSecond: this.#completion > 1 && decodeMs > 0 ? ((this.#completion - 1) * 1000) / decodeMs : null,
    };
  }

  /** Call when it has ended, however it did. */
  phases(): PhaseTimes {
    return {
      submittedAt: this.#submittedAt,
      startedAt: this.#startedAt,
      firstTokenAt: this.#firstTokenAt,
      endedAt: performance.now(),
    };
  }

  /** Call once. Prompts that never left the queue cost nothing; generated tokens count, whoever ended the request. */
  ended(prefixTokens: number): void {
    const now = performance.now();
    const startedAt = this.#startedAt ?? now;
    const promptTokens = this.#promptTokens((index) => this.#started[index] === true);
    this.#charge(promptTokens + this.#completion - this.#reserved);
    this.#parts.usage?.record({
      user: this.#request.user,
      prefix: this.#request.prefix?.name ?? null,
      requests: this.#request.requests ?? 1,
      prefixTokens: this.#startedAt === null ? 0 : prefixTokens,
      promptTokens,
      completionTokens: this.#completion,
      queueSeconds: (startedAt - this.#submittedAt) / 1000,
      runSeconds: (now - startedAt) / 1000,
    });
  }

  #charge(tokens: number): void {
    if (tokens !== 0) this.#parts.tokenRate?.charge(this.#request.user, tokens);
  }

  #promptTokens(counts: (index: number) => boolean): number {
    return this.#request.prompts.reduce((sum, ids, index) => sum + (counts(index) ? ids.length : 0), 0);
  }
}
