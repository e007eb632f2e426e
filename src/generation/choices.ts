import type { FinishReason, PromptScore, TokenEvent } from "../engine/request.ts";
import type { Stops } from "../text/stop-strings.ts";
import { TextStream } from "../text/text-stream.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { ChoiceDelta, ValidGenerateRequest } from "./types.ts";

export interface ChoicesParts {
  readonly tokenizer: Tokenizer;
  readonly stops: Stops;
  readonly eosIds: ReadonlySet<number>;
  /** A space that comes first is not part of a generated text. */
  readonly dropsSpace: boolean;
}

/** Choices generated per prompt, including those that will not be returned. */
export const choicesPerPrompt = ({ n, bestOf }: Pick<ValidGenerateRequest, "n" | "bestOf">): number => bestOf ?? n;

/** The choices of a request: their texts, and what was added to them since the last `take`. */
export class Choices {
  readonly #request: ValidGenerateRequest;
  readonly #tokenizer: Tokenizer;
  readonly #eosIds: ReadonlySet<number>;
  readonly #texts: readonly TextStream[];
  /** Choices whose first character, if it is a space, is to be dropped. */
  readonly #atSpace: Set<number>;
  /** Choices that a stop string or a stop token has ended. */
  readonly #stopped = new Set<number>();
  /** With `bestOf`: sum of each choice's log probabilities, and number of its tokens. */
  readonly #likelihoods: readonly { sum: number; tokens: number }[];
  /** By index of the choice; empty where nothing was added. */
  #deltas: (ChoiceDelta | undefined)[] = [];
  #open: number;

  constructor(request: ValidGenerateRequest, { tokenizer, stops, eosIds, dropsSpace }: ChoicesParts) {
    this.#request = request;
    this.#tokenizer = tokenizer;
    this.#eosIds = eosIds;
    this.#open = request.prompts.length * choicesPerPrompt(request);
    this.#texts = Array.from({ length: this.#open }, () => new TextStream(tokenizer, stops));
    this.#atSpace = new Set(dropsSpace ? this.#texts.keys() : []);
    this.#likelihoods = this.#texts.map(() => ({ sum: 0, tokens: 0 }));
  }

  /** Number of unfinished choices. */
  get open(): number {
    return this.#open;
  }

  get changed(): boolean {
    return this.#deltas.length > 0;
  }

  /** What was added since the last call: at most one delta per choice. */
  take(): ChoiceDelta[] {
    const deltas = this.#deltas.filter((delta) => delta !== undefined);
    this.#deltas = [];
    return deltas;
  }

  /**
   * Begins every choice of a prompt with the prompt. Special tokens have no text here either. `scores`: of its tokens,
   * if asked for.
   */
  echo(prompt: number, scores: readonly PromptScore[]): void {
    const ids = this.#request.prompts[prompt] as Int32Array;
    const text = this.#tokenizer.decode(ids);
    const width = choicesPerPrompt(this.#request);
    for (let index = prompt * width; index < (prompt + 1) * width; index++) {
      const delta = this.#delta(index);
      delta.text += text;
      delta.tokenIds.push(...ids);
      for (const { logprob, top } of scores) {
        delta.logprobs.token.push(logprob);
        delta.logprobs.top.push(top);
      }
    }
  }

  /** Returns "stop" if the token completes a stop string or is a stop token. */
  add(index: number, { id, logprob, top }: TokenEvent): "continue" | "stop" {
    const likelihood = this.#likelihoods[index] as { sum: number; tokens: number };
    likelihood.sum += logprob;
    likelihood.tokens++;
    const delta = this.#delta(index);
    delta.tokenIds.push(id);
    if (this.#request.logprobs !== null) {
      delta.logprobs.token.push(logprob);
      delta.logprobs.top.push(top);
    }
    if (this.#eosIds.has(id)) return "continue";
    const { text, stopped } = (this.#texts[index] as TextStream).push(id);
    delta.text += this.#withoutSpace(index, text);
    if (stopped) this.#stopped.add(index);
    return stopped ? "stop" : "continue";
  }

  finish(index: number, reason: FinishReason, score: number | null): void {
    const delta = this.#delta(index);
    // What was held back for a stop string is part of the text, also where a constraint has ended it.
    if (!this.#stopped.has(index)) delta.text += this.#withoutSpace(index, (this.#texts[index] as TextStream).end());
    delta.finishReason = reason;
    const { sum, tokens } = this.#likelihoods[index] as { sum: number; tokens: number };
    delta.score = this.#request.bestOf === null ? score : sum / tokens;
    this.#open--;
  }

  #withoutSpace(index: number, text: string): string {
    if (text === "" || !this.#atSpace.delete(index)) return text;
    return text.startsWith(" ") ? text.slice(1) : text;
  }

  #delta(index: number): ChoiceDelta {
    return (this.#deltas[index] ??= emptyDelta(index, this.#request.logprobs === null ? NO_LOGPROBS : undefined));
  }
}

/** For requests that did not ask for any. Shared, so frozen. */
const NO_LOGPROBS: ChoiceDelta["logprobs"] = { token: [], top: [] };
Object.values(NO_LOGPROBS).forEach(Object.freeze);

export const emptyDelta = (index: number, logprobs: ChoiceDelta["logprobs"] = { token: [], top: [] }): ChoiceDelta => ({
  index,
  text: "",
  tokenIds: [],
  logprobs,
  finishReason: null,
  score: null,
});
