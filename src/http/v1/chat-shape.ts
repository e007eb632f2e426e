import type { ChoiceDelta, GenerationEnd } from "../../generation/service.ts";
import type { Tokenizer } from "../../text/tokenizer.ts";
import type { LongestToken } from "../generate/answer-limit.ts";
import type { AnswerShape, ListWriter } from "../generate/response.ts";
import { LONGEST_NUMBER } from "../generate/shape.ts";
import { reasonOf, usageJson, type CompletionsShapeOptions } from "./completions-shape.ts";

/** Approximate characters of a token with its log probability and bytes, and of a token's id. */
const ENTRY = 96;
const NUMBER = 16;
const AROUND_ENTRY = '{"token":,"logprob":,"bytes":[],"top_logprobs":[]},'.length;
/** Characters of a byte in a list. */
const BYTE = "255,".length;

type Top = ChoiceDelta["logprobs"]["top"][number];

/** Answers of `/v1/chat/completions`; the shapes are those of chat-schema.ts. */
export class ChatShape implements AnswerShape {
  readonly tokenSize: number;
  readonly showsTokens: boolean;
  readonly #options: CompletionsShapeOptions;
  readonly #tokenizer: Pick<Tokenizer, "bytesOf" | "tokenText">;
  /** Everything up to the choices, of an answer and of an event. */
  readonly #head: string;
  readonly #eventHead: string;
  /** Everything after the choices of an event without usage. */
  readonly #tail: string;
  /** Whether the role of each choice's message has been sent. */
  readonly #begun: boolean[] = [];

  constructor(options: CompletionsShapeOptions, tokenizer: Pick<Tokenizer, "bytesOf" | "tokenText">) {
    this.#options = options;
    this.#tokenizer = tokenizer;
    const { id, created, model, logprobs, returnTokenIds, includeUsage } = options;
    const head = (object: string): string =>
      `${JSON.stringify({ id, object, created, model }).slice(0, -1)},"choices":[`;
    this.#head = head("chat.completion");
    this.#eventHead = head("chat.completion.chunk");
    this.#tail = includeUsage ? '],"usage":null}' : "]}";
    this.tokenSize = NUMBER + (logprobs === null ? 0 : ENTRY * (logprobs + 1));
    this.showsTokens = returnTokenIds || logprobs !== null;
  }

  around(end: GenerationEnd): readonly [string, string] {
    return [this.#head, `],"usage":${usageJson(end)}}`];
  }

  event(choices: string): string {
    return this.#eventHead + choices + this.#tail;
  }

  last(choices: string, end: GenerationEnd): readonly string[] {
    const last = this.event(choices);
    return this.#options.includeUsage ? [last, `${this.#eventHead}],"usage":${usageJson(end)}}`] : [last];
  }

  delta({ index, text, tokenIds, logprobs, finishReason }: ChoiceDelta): string {
    const role = this.#begun[index] ? "" : '"role":"assistant",';
    this.#begun[index] = true;
    const shown =
      this.#options.logprobs === null ? "null" : `{"content":[${this.#entries(tokenIds, logprobs, 0)}],"refusal":null}`;
    const ids = this.#options.returnTokenIds ? `,"token_ids":[${tokenIds.join()}]` : "";
    const reason = finishReason === null ? "null" : `"${reasonOf(finishReason)}"`;
    return `{"index":${index},"delta":{${role}"content":${JSON.stringify(text)}},"logprobs":${shown},"finish_reason":${reason}${ids}}`;
  }

  *choice({ index, text, tokenIds, logprobs, finishReason }: ChoiceDelta, list: ListWriter): Generator<string, void> {
    yield `{"index":${index},"message":{"role":"assistant","content":${JSON.stringify(text)},"refusal":null},"logprobs":`;
    if (this.#options.logprobs === null) yield "null";
    else {
      yield* list('{"content":', tokenIds, (ids, from) => this.#entries(ids, logprobs, from));
      yield ',"refusal":null}';
    }
    yield `,"finish_reason":"${reasonOf(finishReason ?? "length")}"`;
    if (this.#options.returnTokenIds) yield* list(',"token_ids":', tokenIds);
    yield "}";
  }

  /** The tokens `ids`, whose log probabilities begin at index `from`. */
  #entries(ids: readonly number[], { token, top }: ChoiceDelta["logprobs"], from: number): string {
    return ids
      .map((id, at) => {
        const likeliest = (top[from + at] ?? []).map((one) => `${this.#entry(one)}}`).join();
        return `${this.#entry({ id, logprob: token[from + at] ?? 0 })},"top_logprobs":[${likeliest}]}`;
      })
      .join();
  }

  /** A token's entry without its end. */
  #entry({ id, logprob }: Pick<Top[number], "id" | "logprob">): string {
    const bytes = this.#tokenizer.bytesOf(id);
    const shown = bytes.length === 0 ? "null" : `[${bytes.join()}]`;
    return `{"token":${JSON.stringify(this.#tokenizer.tokenText(id))},"logprob":${logprob},"bytes":${shown}`;
  }
}

/** Most bytes that one token of a choice adds to an answer. A token's text as JSON is no shorter than its bytes. */
export function bytesOfToken(longest: LongestToken, logprobs: number | null, returnTokenIds: boolean): number {
  const entry = AROUND_ENTRY + longest.text * (1 + BYTE) + LONGEST_NUMBER;
  return longest.text + (returnTokenIds ? longest.id + 1 : 0) + (logprobs === null ? 0 : (logprobs + 1) * entry);
}
