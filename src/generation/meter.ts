import type { RequestUsage } from "../users/usage.ts";
import type { TokenRate } from "../users/token-rate.ts";

export interface MeterParts {
  /** Called once for each request that was taken in, however it ended. */
  readonly usage?: { record(usage: RequestUsage): void };
  readonly tokenRate?: TokenRate;
}

export interface Metered {
  readonly user: string;
  readonly prefix: { readonly name: string } | null;
  readonly prompts: readonly { readonly length: number }[];
  /** The most that can be generated, over all prompts, choices and beams. */
  readonly mostNewTokens: number;
}

/**
 * What one request uses: its time in the queue and in the model, and its tokens, for the bill and for the user's tokens per minute. Of these all
 * that it may come to is reserved when it is let in, so that requests sent at once cannot all spend the same; what is left at its end is given back.
 */
export class RequestMeter {
  readonly #request: Metered;
  readonly #parts: MeterParts;
  readonly #started: boolean[];
  #submittedAt = 0;
  #startedAt: number | null = null;
  /** Tokens that the rate has been charged for. */
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

  /** It was admitted and then not taken in. */
  refuse(): void {
    this.#charge(-this.#reserved);
  }

  submitted(): void {
    this.#submittedAt = performance.now();
  }

  /** Prompt `index` left the queue. May be told more than once. */
  started(index: number): void {
    this.#startedAt ??= performance.now();
    this.#started[index] = true;
  }

  generated(tokens: number): void {
    this.#completion += tokens;
  }

  /** Tokens generated so far. */
  get completion(): number {
    return this.#completion;
  }

  /** To be called once. Prompts that never left the queue cost nothing; what was generated counts, whoever ended it. */
  ended(prefixTokens: number): void {
    const now = performance.now();
    const startedAt = this.#startedAt ?? now;
    const promptTokens = this.#promptTokens((index) => this.#started[index] === true);
    this.#charge(promptTokens + this.#completion - this.#reserved);
    this.#parts.usage?.record({
      user: this.#request.user,
      prefix: this.#request.prefix?.name ?? null,
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
