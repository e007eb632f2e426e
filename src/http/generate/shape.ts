import type { ChoiceDelta, GenerationEnd, ValidGenerateRequest } from "../../generation/service.ts";
import { prefixIdOf } from "../prefixes/id.ts";
import type { LongestToken } from "./answer-limit.ts";
import type { ResponseOptions } from "./parse.ts";
import type { AnswerShape, ListWriter } from "./response.ts";
import type { GenerateEvent, GenerateResponse } from "./answer-schema.ts";

type OpenChoice = GenerateEvent["choices"][number];

/** Approximate characters of an entry of `top_logprobs`, and of a token's id or log probability. */
const ENTRY = 64;
const NUMBER = 16;

/** Longest JSON of a double, in bytes, such as -1.2345678901234567e-10. */
export const LONGEST_NUMBER = 25;
/** Bytes around the id, text and number of one of the likeliest tokens. */
const AROUND_TOP = '{"id":,"token":,"logprob":},'.length;

/** `/generate`'s answers; the shapes are those of schema.ts. */
export class GenerateShape implements AnswerShape {
  readonly tokenSize: number;
  readonly showsTokens: boolean;
  readonly #request: ValidGenerateRequest;
  readonly #options: ResponseOptions;
  readonly #model: string;
  readonly #tokenText: (id: number) => string;

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
    this.tokenSize = NUMBER + NUMBER + ENTRY * (request.logprobs ?? 0);
    this.showsTokens = options.returnTokenIds || request.logprobs !== null;
  }

  /** A GenerateResponse. */
  around(end: GenerationEnd): readonly [string, string] {
    return [`{"object":"generation",${JSON.stringify(this.#common(end)).slice(1, -1)},"choices":[`, "]}"];
  }

  /** A GenerateEvent. */
  event(choices: string): string {
    return `{"object":"generation.step","choices":[${choices}]}`;
  }

  /** A GenerateLastEvent. */
  last(choices: string, end: GenerationEnd): readonly string[] {
    return [`{"object":"generation.end","choices":[${choices}],${JSON.stringify(this.#common(end)).slice(1)}`];
  }

  /** The same as JSON.stringify of `#open`, concatenated by hand where the shape is known: this runs once per token. */
  delta(delta: ChoiceDelta): string {
    return this.#request.logprobs === null && delta.score === null
      ? this.#plain(delta)
      : JSON.stringify(this.#open(delta));
  }

  /** The same as JSON.stringify of a finished `#open`, concatenated by hand. */
  *choice(
    { index, text, tokenIds, logprobs, score, finishReason }: ChoiceDelta,
    list: ListWriter,
  ): Generator<string, void> {
    yield `{"index":${index},"text":${JSON.stringify(text)}`;
    if (this.#options.returnTokenIds) yield* list(',"token_ids":', tokenIds);
    if (this.#request.logprobs !== null) {
      yield* list(',"logprobs":{"token_logprobs":', logprobs.token);
      yield* list(',"top_logprobs":', logprobs.top, (top) => JSON.stringify(this.#top(top)).slice(1, -1));
      yield "}";
    }
    yield `${score === null ? "" : `,"score":${JSON.stringify(score)}`},"finish_reason":${JSON.stringify(finishReason ?? "length")}}`;
  }

  #common(end: GenerationEnd): Omit<GenerateResponse, "object" | "choices"> {
    const { prefix, prompt, completion } = end.usage;
    return {
      id: this.#request.id,
      prefix: end.prefix && { id: prefixIdOf(end.prefix.key, this.#request.user), digest: end.prefix.digest },
      model: this.#model,
      usage: { prefix_tokens: prefix, prompt_tokens: prompt, completion_tokens: completion },
      seed: this.#request.seed,
      ...(this.#options.timings ? { timings: timingsDocument(end.timings) } : {}),
    };
  }

  #open(delta: ChoiceDelta): OpenChoice {
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

  #plain({ index, text, tokenIds, finishReason }: ChoiceDelta): string {
    const ids = this.#options.returnTokenIds ? `,"token_ids":[${tokenIds.join()}]` : "";
    return `{"index":${index},"text":${JSON.stringify(text)}${ids},"finish_reason":${finishReason === null ? "null" : `"${finishReason}"`}}`;
  }

  #top(top: Readonly<ChoiceDelta["logprobs"]["top"]>): { id: number; token: string; logprob: number }[][] {
    return top.map((tokens) => tokens.map(({ id, logprob }) => ({ id, token: this.#tokenText(id), logprob })));
  }
}

/** To a microsecond: further digits are noise. */
const rounded = (value: number): number => Math.round(value * 1000) / 1000;

function timingsDocument(timings: GenerationEnd["timings"]): NonNullable<GenerateResponse["timings"]> {
  return {
    queue_ms: rounded(timings.queueMs),
    prefill_ms: rounded(timings.prefillMs),
    decode_ms: rounded(timings.decodeMs),
    tokens_per_second: timings.tokensPerSecond === null ? null : rounded(timings.tokensPerSecond),
  };
}

/** Most bytes that one token of a choice adds to an answer of GenerateShape. */
export function bytesOfToken(longest: LongestToken, logprobs: number | null, returnTokenIds: boolean): number {
  const top = AROUND_TOP + longest.id + longest.text + LONGEST_NUMBER;
  return (
    longest.text +
    (returnTokenIds ? longest.id + 1 : 0) +
    (logprobs === null ? 0 : LONGEST_NUMBER + "[],,".length + logprobs * top)
  );
}
