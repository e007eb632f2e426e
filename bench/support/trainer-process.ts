import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import type { TrainSequence } from "../../src/model/train-batch.ts";

export interface TrainerUpdate {
  /** Mean over the batch's targets, in nats, before the update. */
  readonly loss: number;
  readonly ms: number;
  /** The most memory that the process has had, in bytes. */
  readonly peak_bytes: number;
}

export interface TrainerParts {
  /** Folder of the base model. */
  readonly base: string;
  /** Folder of the PREFIX_TUNING adapter that it begins with. */
  readonly adapter: string;
  readonly threads: number;
}

/** A process that trains a prefix batch by batch: JSON lines in and out, as bench/peers/peft_training.py says. */
export class TrainerProcess {
  readonly #ask: (request: object) => Promise<unknown>;
  readonly #end: () => void;

  /** PEFT and torch. */
  static peft(python: string, parts: TrainerParts): TrainerProcess {
    return new TrainerProcess(python, ["../peers/peft_training.py"], parts);
  }

  /** What `prefixd train` runs; `packed`: with `--pack-weights`. */
  static own(parts: TrainerParts, packed: boolean): TrainerProcess {
    return new TrainerProcess(
      process.execPath,
      ["--import", "tsx", "../peers/own_training.ts"],
      parts,
      packed ? ["packed"] : [],
    );
  }

  private constructor(
    program: string,
    args: readonly string[],
    { base, adapter, threads }: TrainerParts,
    more: readonly string[] = [],
  ) {
    const script = new URL(args.at(-1)!, import.meta.url).pathname;
    const given = [...args.slice(0, -1), script, base, adapter, String(threads), ...more];
    const child = spawn(program, given, { stdio: "pipe" });
    let complaint = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => (complaint = (complaint + text).slice(-2000)));
    const answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    this.#ask = async (request) => {
      child.stdin.write(`${JSON.stringify(request)}\n`);
      const answer = await answers.next();
      if (answer.done === true) throw new Error(`${program} ended: ${complaint}`);
      return JSON.parse(answer.value);
    };
    this.#end = () => child.stdin.end();
  }

  update(sequences: readonly TrainSequence[], rate: number, clip: number): Promise<TrainerUpdate> {
    const rows = sequences.map(({ ids, firstTarget }) => [firstTarget, [...ids]]);
    return this.#ask({ rate, clip, rows }) as Promise<TrainerUpdate>;
  }

  async save(folder: string): Promise<void> {
    await this.#ask({ save: folder });
  }

  [Symbol.dispose](): void {
    this.#end();
  }
}
