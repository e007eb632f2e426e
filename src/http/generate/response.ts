import type { ChoiceDelta, GenerationEnd, Generated, ValidGenerateRequest } from "../../generation/service.ts";
import type { ResponseOptions } from "./parse.ts";
import { prefixIdOf } from "../prefixes/id.ts";
import type { Audit } from "../access-log.ts";
import type { GenerateEvent, GenerateResponse } from "./schema.ts";

type OpenChoice = GenerateEvent["choices"][number];

/** Approximate characters of JSON built at a time: a millisecond or two. */
export const PIECE = 65_536;
/** Approximate characters of an entry of `top_logprobs`, and of a token's id or log probability. */
const ENTRY = 64;
const NUMBER = 16;

/** Writes results as clients see them; the shapes are those of schema.ts. */
export class ResponseWriter {
  readonly #request: ValidGenerateRequest;
  readonly #options: ResponseOptions;
  readonly #model: string;
  readonly #tokenText: (id: number) => string;
  /** Tokens whose JSON fills a PIECE. */
  readonly #stretch: number;

  constructor(
    request: ValidGenerateRequest,
    options: ResponseOptions,
    model: string,
    tokenText: (id: number) => string,
  ) {
    this.#request = request;
    this.#options = options;
    this.#model = model;
    this.#tokenText = tokenText;
    this.#stretch = Math.floor(PIECE / (NUMBER + NUMBER + ENTRY * (request.logprobs ?? 0)));
  }

  /** A GenerateResponse as JSON, in chunks of a few PIECEs; an ordinary one is a single chunk. */
  *whole({ choices, end }: Generated): Generator<string, void> {
    let json = `${JSON.stringify(this.#common(end)).slice(0, -1)},"choices":[`;
    for (const [at, choice] of choices.entries()) {
      if (at > 0) json += ",";
      for (const part of this.#choiceParts(choice)) {
        json += part;
        if (json.length < PIECE) continue;
        yield json;
        json = "";
      }
    }
    yield `${json}]}`;
  }

  /** Whether a step's data fits one event; only an echoed prompt exceeds it. */
  isOneEvent(deltas: readonly ChoiceDelta[]): boolean {
    return deltas.reduce((size, delta) => size + this.#sizeOf(delta), 0) <= PIECE;
  }

  /**
   * A GenerateEvent as JSON; null if the step has nothing to show yet, for instance while a token is held back for a
   * stop string.
   */
  event(deltas: readonly ChoiceDelta[]): string | null {
    const shows =
      this.#options.returnTokenIds ||
      this.#request.logprobs !== null ||
      deltas.some((delta) => delta.text !== "" || delta.finishReason !== null);
    return shows ? `{"choices":[${this.#choicesJson(deltas)}]}` : null;
  }

  /** A GenerateLastEvent as JSON. */
  lastEvent(deltas: readonly ChoiceDelta[], end: GenerationEnd): string {
    return `{"choices":[${this.#choicesJson(deltas)}],${JSON.stringify(this.#common(end)).slice(1)}`;
  }

  /** One step's events, each of about a PIECE at most. If there is an end, the last event is the return value. */
  *events(deltas: readonly ChoiceDelta[], end: GenerationEnd | null): Generator<string, string | null> {
    let slices: ChoiceDelta[] = [];
    let size = 0;
    for (const delta of deltas) {
      for (const slice of this.#slices(delta)) {
        size += this.#sizeOf(slice);
        if (slices.length > 0 && size > PIECE) {
          const event = this.event(slices);
          if (event !== null) yield event;
          [slices, size] = [[], this.#sizeOf(slice)];
        }
        slices.push(slice);
      }
    }
    if (end !== null) return this.lastEvent(slices, end);
    const event = this.event(slices);
    if (event !== null) yield event;
    return null;
  }

  /** Approximate characters of a delta's JSON. */
  #sizeOf({ text, tokenIds }: ChoiceDelta): number {
    return text.length + (tokenIds.length * PIECE) / this.#stretch;
  }

  /** A delta, sliced by tokens if it is long: the text goes with the first slice, the end with the last. */
  *#slices(delta: ChoiceDelta): Generator<ChoiceDelta, void> {
    const { index, tokenIds, logprobs } = delta;
    if (tokenIds.length <= this.#stretch) {
      yield delta;
      return;
    }
    for (let from = 0; from < tokenIds.length; from += this.#stretch) {
      const to = from + this.#stretch;
      const isLast = to >= tokenIds.length;
      yield {
        index,
        text: from === 0 ? delta.text : "",
        tokenIds: tokenIds.slice(from, to),
        logprobs: { token: logprobs.token.slice(from, to), top: logprobs.top.slice(from, to) },
        finishReason: isLast ? delta.finishReason : null,
        score: isLast ? delta.score : null,
      };
    }
  }

  #common(end: GenerationEnd): Omit<GenerateResponse, "choices"> {
    const { prefix, prompt, completion } = end.usage;
    return {
      id: this.#request.id,
      prefix: end.prefix && { id: prefixIdOf(end.prefix.key, this.#request.user), digest: end.prefix.digest },
      model: this.#model,
      usage: { prefix_tokens: prefix, prompt_tokens: prompt, completion_tokens: completion },
      seed: this.#request.seed,
    };
  }

  #choice(delta: ChoiceDelta): OpenChoice {
    return {
      index: delta.index,
      text: delta.text,
      ...(this.#options.returnTokenIds ? { token_ids: delta.tokenIds } : {}),
      ...(this.#request.logprobs === null
        ? {}
        : { logprobs: { token_logprobs: delta.logprobs.token, top_logprobs: this.#top(delta.logprobs.top) } }),
      ...(delta.score === null ? {} : { score: delta.score }),
      finish_reason: delta.finishReason,
    };
  }

  /**
   * The same as JSON.stringify of every `#choice`, concatenated by hand where the shape is known: this runs once per
   * token.
   */
  #choicesJson(deltas: readonly ChoiceDelta[]): string {
    let json = "";
    for (const delta of deltas) {
      if (json !== "") json += ",";
      json +=
        this.#request.logprobs === null && delta.score === null
          ? this.#plainJson(delta)
          : JSON.stringify(this.#choice(delta));
    }
    return json;
  }

  #plainJson({ index, text, tokenIds, finishReason }: ChoiceDelta): string {
    const ids = this.#options.returnTokenIds ? `,"token_ids":[${tokenIds.join()}]` : "";
    return `{"index":${index},"text":${JSON.stringify(text)}${ids},"finish_reason":${finishReason === null ? "null" : `"${finishReason}"`}}`;
  }

  /** The same as JSON.stringify of a finished `#choice`, concatenated by hand in parts of bounded size. */
  *#choiceParts({ index, text, tokenIds, logprobs, score, finishReason }: ChoiceDelta): Generator<string, void> {
    yield `{"index":${index},"text":${JSON.stringify(text)}`;
    if (this.#options.returnTokenIds) yield* this.#list(',"token_ids":[', tokenIds);
    if (this.#request.logprobs !== null) {
      yield* this.#list(',"logprobs":{"token_logprobs":[', logprobs.token);
      yield* this.#list(',"top_logprobs":[', logprobs.top, (tokens) => this.#top(tokens));
      yield "}";
    }
    yield `${score === null ? "" : `,"score":${JSON.stringify(score)}`},"finish_reason":${JSON.stringify(finishReason ?? "length")}}`;
  }

  /** A list as JSON, a stretch at a time; `begin` includes its bracket. */
  *#list<T>(
    begin: string,
    values: readonly T[],
    shown: (values: readonly T[]) => readonly unknown[] = (all) => all,
  ): Generator<string, void> {
    yield begin;
    for (let from = 0; from < values.length; from += this.#stretch) {
      yield (from === 0 ? "" : ",") + JSON.stringify(shown(values.slice(from, from + this.#stretch))).slice(1, -1);
    }
    yield "]";
  }

  #top(top: Readonly<ChoiceDelta["logprobs"]["top"]>): { id: number; token: string; logprob: number }[][] {
    return top.map((tokens) => tokens.map(({ id, logprob }) => ({ id, token: this.#tokenText(id), logprob })));
  }
}

export function auditUsage(audit: Audit, end: GenerationEnd): void {
  audit.prefix_tokens = end.usage.prefix;
  audit.prompt_tokens = end.usage.prompt;
  audit.completion_tokens = end.usage.completion;
}
