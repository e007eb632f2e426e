/** The demo's tasks: their rows, and the prefixes that are trained for them. */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Engine } from "../../src/engine/engine.ts";
import type { EngineRequest } from "../../src/engine/request.ts";
import type { KvTensor } from "../../src/kv.ts";
import { seededRandom } from "../../src/load/random.ts";
import { parsePeftAdapter } from "../../src/prefixes/peft.ts";
import type { Tokenizer } from "../../src/text/tokenizer.ts";
import { benchRequest, type BenchModel } from "./gpt2.ts";

export interface TaskRow {
  readonly input: string;
  readonly target: string;
  readonly references?: readonly string[];
}

/** Rows of `tasks/<task>.<split>.jsonl.xz` in a folder as in tools/demo-model/README.md; needs `xz`. */
export function readTask(folder: string, task: string, split: "train" | "dev" | "test"): TaskRow[] {
  const file = join(folder, "tasks", `${task}.${split}.jsonl.xz`);
  const text = execFileSync("xz", ["-dc", file], { encoding: "utf8", maxBuffer: 1 << 30 });
  return text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as TaskRow);
}

const MONTHS = "January February March April May June July August September October November December".split(" ");

/** The same with `datelong`, which is `datenorm` with another target: "25 October 2029". */
export function taskRows(folder: string, task: string, split: "train" | "dev" | "test"): TaskRow[] {
  if (task !== "datelong") return readTask(folder, task, split);
  return readTask(folder, "datenorm", split).map((row) => {
    const [year, month, day] = row.target.split("-").map(Number);
    return { ...row, target: `${day} ${MONTHS[month! - 1]} ${year}` };
  });
}

/** As every demo prompt is written. */
export const promptOf = ({ input }: TaskRow): string => `${input.trim()}\n=>`;

/** As every demo answer is written, but for EOS. */
export const targetOf = ({ target }: TaskRow): string => ` ${target.trim()}`;

/** A seeded sample. */
export function sampleOf<T>(rows: readonly T[], count: number): T[] {
  const random = seededRandom(count);
  return rows
    .map((row) => ({ row, key: random() }))
    .sort((a, b) => a.key - b.key)
    .slice(0, count)
    .map(({ row }) => row);
}

/** The virtual tokens of the PREFIX_TUNING adapter in a folder. */
export function prefixIn(folder: string, { shape, fingerprint }: Pick<BenchModel, "shape" | "fingerprint">): KvTensor {
  const read = (file: string): Uint8Array => readFileSync(join(folder, file));
  const adapter = parsePeftAdapter(read("adapter_config.json"), read("adapter_model.safetensors"), shape, fingerprint);
  if (!("kv" in adapter)) throw new Error(`${folder} has no PREFIX_TUNING adapter`);
  return adapter.kv;
}

export interface Answer {
  /** Without EOS and white space around. */
  readonly text: string;
  readonly tokens: number;
}

/** The answer to a request that ends with EOS. */
export function answerOf(
  engine: Engine,
  tokenizer: Tokenizer,
  given: Pick<EngineRequest, "promptIds" | "maxNewTokens"> & Partial<EngineRequest>,
): Promise<Answer> {
  const eosId = tokenizer.eosId!;
  return new Promise((resolve, reject) => {
    const ids: number[] = [];
    engine.submit(benchRequest({ eosIds: [eosId], ...given }), {
      onToken({ id }) {
        ids.push(id);
        return "continue";
      },
      onFinish: () =>
        resolve({
          text: tokenizer.decode(Int32Array.from(ids.filter((id) => id !== eosId))).trim(),
          tokens: ids.length,
        }),
      onError: reject,
    });
  });
}
