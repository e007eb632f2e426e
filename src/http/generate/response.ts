import type { ChoiceDelta, GenerationEnd, Generated } from "../../generation/service.ts";
import type { Audit } from "../access-log.ts";

/** Approximate characters of JSON built at a time: a millisecond or two. */
export const CHUNK_SIZE = 65_536;

/**
 * Writes a list as JSON in parts of bounded size, its brackets included. `begin` goes before them; `json` writes the
 * items from index `from` on, separated by commas.
 */
export type ListWriter = <T>(
  begin: string,
  values: readonly T[],
  json?: (values: readonly T[], from: number) => string,
) => Generator<string, void>;

/** How an API writes results. Made for one request: it may count what it has written. All strings are JSON. */
export interface AnswerShape {
  /** Approximate characters that a token takes, apart from its text. */
  readonly tokenSize: number;
  /** Whether tokens are shown that have added no text yet, such as those held back for a stop string. */
  readonly showsTokens: boolean;
  /** What stands before and after the choices of a whole answer. */
  around(end: GenerationEnd): readonly [before: string, after: string];
  /** A finished choice, in parts of bounded size. */
  choice(choice: ChoiceDelta, list: ListWriter): Generator<string, void>;
  /** What one step added to a choice. Throws PrefixdError if it ended in a way that the API has no name for. */
  delta(delta: ChoiceDelta): string;
  /** An event of a stream; `choices` are `delta`s, separated by commas. */
  event(choices: string): string;
  /** The last events of a stream. */
  last(choices: string, end: GenerationEnd): readonly string[];
}

/** Writes results in a given shape, in parts of bounded size. */
export class ResponseWriter {
  readonly #shape: AnswerShape;
  /** Tokens whose JSON has about CHUNK_SIZE characters. */
  readonly #stretch: number;

  constructor(shape: AnswerShape) {
    this.#shape = shape;
    this.#stretch = Math.floor(CHUNK_SIZE / shape.tokenSize);
  }

  /** A whole answer, in chunks of a few times CHUNK_SIZE; an ordinary one is a single chunk. */
  *whole({ choices, end }: Generated): Generator<string, void> {
    const [before, after] = this.#shape.around(end);
    let json = before;
    for (const [at, choice] of choices.entries()) {
      if (at > 0) json += ",";
      for (const part of this.#shape.choice(choice, (...list) => this.#list(...list))) {
        json += part;
        if (json.length < CHUNK_SIZE) continue;
        yield json;
        json = "";
      }
    }
    yield `${json}${after}`;
  }

  /** Whether a step's data fits one event; only an echoed prompt exceeds it. */
  isOneEvent(deltas: readonly ChoiceDelta[]): boolean {
    return deltas.reduce((size, delta) => size + this.#sizeOf(delta), 0) <= CHUNK_SIZE;
  }

  /** An event; null if the step has nothing to show yet, for instance while a token is held back for a stop string. */
  event(deltas: readonly ChoiceDelta[]): string | null {
    const shows = this.#shape.showsTokens || deltas.some((delta) => delta.text !== "" || delta.finishReason !== null);
    return shows ? this.#shape.event(this.#choices(deltas)) : null;
  }

  /** The stream's last events. */
  last(deltas: readonly ChoiceDelta[], end: GenerationEnd): readonly string[] {
    return this.#shape.last(this.#choices(deltas), end);
  }

  /**
   * One step's events, each of at most about CHUNK_SIZE characters. If there is an end, the last ones are the return
   * value.
   */
  *events(deltas: readonly ChoiceDelta[], end: GenerationEnd | null): Generator<string, readonly string[] | null> {
    let slices: ChoiceDelta[] = [];
    let size = 0;
    for (const delta of deltas) {
      for (const slice of this.#slices(delta)) {
        size += this.#sizeOf(slice);
        if (slices.length > 0 && size > CHUNK_SIZE) {
          const event = this.event(slices);
          if (event !== null) yield event;
          [slices, size] = [[], this.#sizeOf(slice)];
        }
        slices.push(slice);
      }
    }
    if (end !== null) return this.last(slices, end);
    const event = this.event(slices);
    if (event !== null) yield event;
    return null;
  }

  #choices(deltas: readonly ChoiceDelta[]): string {
    let json = "";
    for (const delta of deltas) {
      if (json !== "") json += ",";
      json += this.#shape.delta(delta);
    }
    return json;
  }

  /** Approximate characters of a delta's JSON. */
  #sizeOf({ text, tokenIds }: ChoiceDelta): number {
    return text.length + (tokenIds.length * CHUNK_SIZE) / this.#stretch;
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

  *#list<T>(
    begin: string,
    values: readonly T[],
    json: (values: readonly T[], from: number) => string = (some) => JSON.stringify(some).slice(1, -1),
  ): Generator<string, void> {
    yield `${begin}[`;
    for (let from = 0; from < values.length; from += this.#stretch)
      yield (from === 0 ? "" : ",") + json(values.slice(from, from + this.#stretch), from);
    yield "]";
  }
}

export function auditUsage(audit: Audit, end: GenerationEnd): void {
  audit.prefix_tokens = end.usage.prefix;
  audit.prompt_tokens = end.usage.prompt;
  audit.completion_tokens = end.usage.completion;
}
