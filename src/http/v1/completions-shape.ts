import { removedError, type ChoiceDelta, type GenerationEnd } from "../../generation/service.ts";
import type { Tokenizer } from "../../text/tokenizer.ts";
import type { LongestToken } from "../generate/answer-limit.ts";
import type { AnswerShape, ListWriter } from "../generate/response.ts";
import { LONGEST_NUMBER } from "../generate/shape.ts";

/** Approximate characters of a token's text with its log probability, and of a token's other numbers. */
const ENTRY = 48;
const NUMBERS = 32;
/** Digits of a `text_offset` and a comma. */
const OFFSET = 9;

type Top = ChoiceDelta["logprobs"]["top"][number];

export interface CompletionsShapeOptions {
  readonly id: string;
  /** As the request names it. */
  readonly model: string;
  /** Unix time in seconds. */
  readonly created: number;
  /** null: no log probabilities. */
  readonly logprobs: number | null;
  readonly returnTokenIds: boolean;
  readonly includeUsage: boolean;
}

/** Answers of `/v1/completions`; the shapes are those of completions-schema.ts. */
export class CompletionsShape implements AnswerShape {
  readonly tokenSize: number;
  readonly showsTokens: boolean;
  readonly #options: CompletionsShapeOptions;
  readonly #tokenizer: Pick<Tokenizer, "bytesOf" | "tokenText">;
  /** Everything up to the choices. */
  readonly #head: string;
  /** Everything after the choices of an event without usage. */
  readonly #tail: string;
  /** Characters of each choice's text that its streamed tokens made so far. */
  readonly #characters: number[] = [];

  constructor(options: CompletionsShapeOptions, tokenizer: Pick<Tokenizer, "bytesOf" | "tokenText">) {
    this.#options = options;
    this.#tokenizer = tokenizer;
    const { id, created, model, logprobs, returnTokenIds, includeUsage } = options;
    const common = JSON.stringify({ id, object: "text_completion", created, model });
    this.#head = `${common.slice(0, -1)},"choices":[`;
    this.#tail = includeUsage ? '],"usage":null}' : "]}";
    this.tokenSize = NUMBERS + (logprobs === null ? 0 : ENTRY * (logprobs + 2));
    this.showsTokens = returnTokenIds || logprobs !== null;
  }

  around(end: GenerationEnd): readonly [string, string] {
    return [this.#head, `],"usage":${usageJson(end)}}`];
  }

  event(choices: string): string {
    return this.#head + choices + this.#tail;
  }

  last(choices: string, end: GenerationEnd): readonly string[] {
    const last = this.event(choices);
    return this.#options.includeUsage ? [last, `${this.#head}],"usage":${usageJson(end)}}`] : [last];
  }

  delta({ index, text, tokenIds, logprobs, finishReason }: ChoiceDelta): string {
    let shown = "null";
    if (this.#options.logprobs !== null) {
      const count = new CharacterCount(this.#tokenizer, this.#characters[index]);
      const offsets = tokenIds.map((id) => count.offsetOf(id));
      this.#characters[index] = count.characters;
      shown = `{"tokens":[${this.#texts(tokenIds)}],"token_logprobs":${JSON.stringify(logprobs.token)},"top_logprobs":[${this.#tops(tokenIds, logprobs, 0)}],"text_offset":[${offsets.join()}]}`;
    }
    const ids = this.#options.returnTokenIds ? `,"token_ids":[${tokenIds.join()}]` : "";
    const reason = finishReason === null ? "null" : `"${reasonOf(finishReason)}"`;
    return `{"index":${index},"text":${JSON.stringify(text)},"logprobs":${shown},"finish_reason":${reason}${ids}}`;
  }

  *choice({ index, text, tokenIds, logprobs, finishReason }: ChoiceDelta, list: ListWriter): Generator<string, void> {
    yield `{"index":${index},"text":${JSON.stringify(text)},"logprobs":`;
    if (this.#options.logprobs === null) yield "null";
    else {
      const count = new CharacterCount(this.#tokenizer);
      yield* list('{"tokens":', tokenIds, (ids) => this.#texts(ids));
      yield* list(',"token_logprobs":', logprobs.token);
      yield* list(',"top_logprobs":', tokenIds, (ids, from) => this.#tops(ids, logprobs, from));
      yield* list(',"text_offset":', tokenIds, (ids) => ids.map((id) => count.offsetOf(id)).join());
      yield "}";
    }
    yield `,"finish_reason":"${reasonOf(finishReason ?? "length")}"`;
    if (this.#options.returnTokenIds) yield* list(',"token_ids":', tokenIds);
    yield "}";
  }

  #texts(ids: readonly number[]): string {
    return ids.map((id) => JSON.stringify(this.#tokenizer.tokenText(id))).join();
  }

  /** The likeliest tokens beside each of `ids`, whose log probabilities begin at index `from`. */
  #tops(ids: readonly number[], { token, top }: ChoiceDelta["logprobs"], from: number): string {
    return ids.map((id, at) => this.#topJson(id, token[from + at] ?? null, top[from + at] ?? [])).join();
  }

  /** By text, with the token itself; of tokens with the same text, which is no whole character, the likeliest. */
  #topJson(id: number, logprob: number | null, top: Top): string {
    if (logprob === null) return "null";
    const shown = new Map<string, number>();
    const itself = top.some((one) => one.id === id) ? [] : [{ id, logprob }];
    for (const one of [...top, ...itself]) {
      const text = JSON.stringify(this.#tokenizer.tokenText(one.id));
      if (!shown.has(text)) shown.set(text, one.logprob);
    }
    return `{${Array.from(shown, ([text, value]) => `${text}:${value}`).join()}}`;
  }
}

/** Most bytes that one token of a choice adds to an answer. */
export function bytesOfToken(longest: LongestToken, logprobs: number | null, returnTokenIds: boolean): number {
  const entry = longest.text + ":,".length + LONGEST_NUMBER;
  return (
    longest.text +
    (returnTokenIds ? longest.id + 1 : 0) +
    (logprobs === null ? 0 : longest.text + LONGEST_NUMBER + OFFSET + ",,{},".length + (logprobs + 1) * entry)
  );
}

/** EOS is a stop. Throws `removed`: OpenAI's clients know no such end. */
export function reasonOf(reason: NonNullable<ChoiceDelta["finishReason"]>): "stop" | "length" {
  if (reason === "removed") throw removedError();
  return reason === "length" ? "length" : "stop";
}

export function usageJson({ usage: { prefix, prompt, completion } }: GenerationEnd): string {
  return JSON.stringify({
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    prefix_tokens: prefix,
  });
}

/** Counts a text's code points by its UTF-8 bytes, token by token. */
class CharacterCount {
  readonly #tokenizer: Pick<Tokenizer, "bytesOf">;
  characters: number;

  constructor(tokenizer: Pick<Tokenizer, "bytesOf">, characters = 0) {
    this.#tokenizer = tokenizer;
    this.characters = characters;
  }

  /** The index of the character in which the next token begins. */
  offsetOf(id: number): number {
    const bytes = this.#tokenizer.bytesOf(id);
    const within = bytes.length > 0 && isContinuation(bytes[0]!);
    const offset = within ? Math.max(0, this.characters - 1) : this.characters;
    for (const byte of bytes) if (!isContinuation(byte)) this.characters++;
    return offset;
  }
}

const isContinuation = (byte: number): boolean => (byte & 0xc0) === 0x80;
