/** A training file as token ids. */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { TrainingError } from "../../errors.ts";
import type { TrainSequence } from "../../model/train-batch.ts";
import type { Tokenizer } from "../../text/tokenizer.ts";
import { LineDefect, parseExampleLine, type ExampleText } from "./example-line.ts";
import { linesOf } from "./lines.ts";

export interface ExampleOptions {
  readonly tokenizer: Tokenizer;
  /** Ends every completion. */
  readonly eosId: number;
  /** Most tokens of a line: prompt, completion and EOS. */
  readonly maxTokens: number;
  /** A longer line is bad, or loses the start of its prompt. */
  readonly tooLong: "refuse" | "cut";
  /** The largest share of bad lines, 0 to 1; a file with more is refused. */
  readonly badLines: number;
  /** Called for every bad line; `reason` is a clause such as "it has no completion". */
  readonly onBadLine?: (number: number, reason: string) => void;
}

/** Longest line in bytes: some hundred times what the largest GPT-2 can read. */
export const MAX_LINE_BYTES = 1 << 20;
/** Most tokens of a file; as ids they take 256 MiB. */
const MAX_FILE_TOKENS = 1 << 26;
/** Reading stops after so many bad lines if they are too many already. */
const MANY_BAD_LINES = 1000;

/** Sequences in one array of ids. */
export class Examples {
  readonly #ids: Int32Array;
  readonly #starts: readonly number[];
  readonly #promptLengths: readonly number[];

  /** @param starts one more than there are examples: the last one is the end */
  constructor(ids: Int32Array, starts: readonly number[], promptLengths: readonly number[]) {
    this.#ids = ids;
    this.#starts = starts;
    this.#promptLengths = promptLengths;
  }

  get count(): number {
    return this.#promptLengths.length;
  }

  /** Completion and EOS are learned. */
  sequence(index: number): TrainSequence {
    const ids = this.#ids.subarray(this.#starts[index], this.#starts[index + 1]);
    return { ids, firstTarget: this.#promptLengths[index]!, endTarget: ids.length };
  }

  /** Prompt, completion and EOS. */
  tokens(index: number): number {
    return this.#starts[index + 1]! - this.#starts[index]!;
  }

  /** sha256 in hex of all sequences. */
  digest(): string {
    const hash = createHash("sha256").update(
      new Uint8Array(this.#ids.buffer, this.#ids.byteOffset, this.#ids.byteLength),
    );
    return hash.update(JSON.stringify([this.#starts, this.#promptLengths])).digest("hex");
  }
}

/**
 * Reads a file of JSON lines. Only the ids are kept.
 * @throws TrainingError `data_invalid`: too many bad lines, none good, or too many tokens; the system's errors
 */
export async function readExamples(path: string, options: ExampleOptions): Promise<Examples> {
  const store = new ExampleStore();
  let [lines, bad, first] = [0, 0, ""];
  for await (const { number, bytes } of linesOf(createReadStream(path), MAX_LINE_BYTES)) {
    lines++;
    try {
      if (bytes === null) throw new LineDefect(`it is longer than ${MAX_LINE_BYTES} bytes`);
      const text = parseExampleLine(bytes);
      if (text === null) lines--;
      else store.add(...encode(text, options));
    } catch (error) {
      if (!(error instanceof LineDefect)) throw error;
      if (bad++ === 0) first = `line ${number}: ${error.message}`;
      options.onBadLine?.(number, error.message);
      if (bad >= MANY_BAD_LINES && bad > options.badLines * lines) break;
    }
    if (store.tokens > MAX_FILE_TOKENS)
      throw new TrainingError(
        "data_invalid",
        `${path} has more than ${MAX_FILE_TOKENS} tokens: train on a part of it.`,
      );
  }
  if (bad > options.badLines * lines) {
    const share = `${Math.round(options.badLines * 1000) / 10} %`;
    throw new TrainingError(
      "data_invalid",
      `${path}: ${bad} of ${lines} lines are bad, more than ${share}. Fix them, or allow a larger share of bad lines. The first is ${first}.`,
    );
  }
  const examples = store.finish();
  if (examples.count === 0) throw new TrainingError("data_invalid", `${path} has no examples.`);
  return examples;
}

/** @throws LineDefect */
function encode(
  { prompt, completion }: ExampleText,
  { tokenizer, eosId, maxTokens, tooLong }: ExampleOptions,
): [promptIds: Int32Array, completionIds: Int32Array] {
  const limit = tooLong === "cut" ? Infinity : maxTokens;
  let promptIds = encodeUpTo(tokenizer, prompt, limit, maxTokens, true);
  const completionIds = Int32Array.of(...encodeUpTo(tokenizer, completion, maxTokens, maxTokens, false), eosId);
  const room = maxTokens - completionIds.length;
  if (promptIds.length > room) {
    // What the tokenizer puts before every prompt stays.
    const { before } = tokenizer.around;
    if (tooLong === "refuse" || room <= before.length) throw tooLongLine(maxTokens);
    promptIds = Int32Array.of(...before, ...promptIds.subarray(promptIds.length - room + before.length));
  }
  if (promptIds.length === 0) throw new LineDefect('its "prompt" has no tokens');
  for (const id of [...promptIds, ...completionIds])
    if (id >= tokenizer.vocabSize)
      throw new LineDefect(
        `it has the token ${JSON.stringify(tokenizer.beyondModel.get(id))}, which the model has no embedding for`,
      );
  return [promptIds, completionIds];
}

/** Gives up as soon as it is sure that there are more than `limit` ids. */
function encodeUpTo(
  tokenizer: Tokenizer,
  text: string,
  limit: number,
  maxTokens: number,
  isPrompt: boolean,
): Int32Array {
  const steps = tokenizer.encodeInSteps(text, isPrompt);
  let step = steps.next();
  for (; step.done !== true; step = steps.next()) if (step.value > limit) throw tooLongLine(maxTokens);
  return step.value;
}

const tooLongLine = (maxTokens: number): LineDefect =>
  new LineDefect(`it has more tokens than the ${maxTokens} that fit with the prefix and the end of text`);

/** Grows by doubling. */
class ExampleStore {
  #ids = new Int32Array(1 << 12);
  readonly #starts = [0];
  readonly #promptLengths: number[] = [];

  get tokens(): number {
    return this.#starts.at(-1)!;
  }

  add(prompt: Int32Array, completion: Int32Array): void {
    const start = this.tokens;
    const end = start + prompt.length + completion.length;
    if (end > this.#ids.length) {
      const larger = new Int32Array(Math.max(end, 2 * this.#ids.length));
      larger.set(this.#ids);
      this.#ids = larger;
    }
    this.#ids.set(prompt, start);
    this.#ids.set(completion, start + prompt.length);
    this.#starts.push(end);
    this.#promptLengths.push(prompt.length);
  }

  finish(): Examples {
    return new Examples(this.#ids.slice(0, this.tokens), this.#starts, this.#promptLengths);
  }
}
