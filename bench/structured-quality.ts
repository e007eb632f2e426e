/**
 * What do constraints do to the demo's answers? Dev rows of three tasks, greedy, with their prefixes, without and with a constraint.
 *
 *     CORPORA=DIR [ROWS=300] [TRAIN_STEPS=300] npm run bench -- structured-quality
 *
 * DIR is as in tools/demo-model/README.md; needs `xz`. `intent`: one of the names that the training rows have. `datenorm`: a regular expression
 * for dates. `slots`: what `sgd_slots` annotates, as a JSON list; no such prefix is in this repository, so one is trained first with
 * `prefixd train`, once, into .cache/. An answer is right if it equals the reference (JSON: as a value), and invalid if it is not of the form,
 * which is judged by other code than the server's: a set, JavaScript's RegExp, ajv.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { Ajv2020 } from "ajv/dist/2020.js";
import { Constraints } from "../src/generation/constraints.ts";
import type { ConstraintSpec } from "../src/generation/types.ts";
import { DEFAULT_LIMITS } from "../src/structured/limits.ts";
import { loadTokenizer } from "../src/text/tokenizer.ts";
import { answerOf, prefixIn, promptOf, readTask, sampleOf, type TaskRow } from "./support/demo-tasks.ts";
import { CACHE, DEMO, newEngine, openFolder } from "./support/gpt2.ts";
import { machine, table, writeSection } from "./support/report.ts";

const ROWS = Number(process.env["ROWS"] ?? 300);
const TRAIN_STEPS = Number(process.env["TRAIN_STEPS"] ?? 300);
const ROOT = new URL("..", import.meta.url).pathname;
const SLOTS = 32;
const DATE = "\\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\\d|3[01])";

interface Task {
  readonly name: string;
  /** Folder of the prefix. */
  readonly prefix: string;
  readonly rows: readonly TaskRow[];
  readonly form: ConstraintSpec["form"];
  readonly formName: string;
  readonly isValid: (text: string) => boolean;
  readonly isRight: (text: string, row: TaskRow) => boolean;
}

const corpora = process.env["CORPORA"];
if (corpora === undefined) {
  console.log("structured-quality: skipped, CORPORA is not set");
  process.exit(0);
}
const tasks = [intentTask(corpora), datesTask(corpora), slotsTask(corpora)];
await using model = await openFolder(DEMO, SLOTS);
const tokenizer = await loadTokenizer(DEMO, model.shape.vocabSize);
const engine = newEngine(model.runner);
const constraints = new Constraints({
  tokenizer,
  eosIds: [tokenizer.eosId!],
  positions: model.shape.positions,
  limits: DEFAULT_LIMITS,
  cacheBytes: 1 << 26,
});

const lines: string[][] = [];
for (const { name, prefix, rows, form, formName, isValid, isRight } of tasks) {
  const kv = prefixIn(prefix, model);
  for (const constrained of [false, true]) {
    const started = performance.now();
    const answers = await Promise.all(
      rows.map(async (row) => {
        const spec: ConstraintSpec = { form, leadingSpace: true };
        const constraint = constrained ? (await constraints.prepare("bench", spec)).start() : null;
        return answerOf(engine, tokenizer, {
          promptIds: tokenizer.encode(promptOf(row)),
          prefix: kv,
          maxNewTokens: 90,
          constraint,
        });
      }),
    );
    const seconds = (performance.now() - started) / 1000;
    const share = (count: number): string => `${((100 * count) / rows.length).toFixed(1)} %`;
    lines.push([
      name,
      constrained ? formName : "none",
      String(rows.length),
      share(answers.filter(({ text }, index) => isRight(text, rows[index]!)).length),
      share(answers.filter(({ text }) => !isValid(text)).length),
      (answers.reduce((sum, { tokens }) => sum + tokens, 0) / seconds).toFixed(0),
    ]);
    console.log(lines.at(-1)!.join("  "));
  }
}
await engine.drain(0);
writeSection("structured-quality", [
  `Demo model, a seeded sample of dev rows of each task, ${SLOTS} at a time; the prefix for slots after ${TRAIN_STEPS} steps. ${machine()}.`,
  "",
  ...table(["task", "constraint", "rows", "right", "invalid", "tokens / s"], lines),
]);
process.exit(0);

function intentTask(folder: string): Task {
  const names = new Set(readTask(folder, "intent", "train").map(({ target }) => target));
  return {
    name: "intent",
    prefix: join(ROOT, "prefixes/intent"),
    rows: sampleOf(readTask(folder, "intent", "dev"), ROWS),
    form: { kind: "choice", texts: [...names] },
    formName: `choice of ${names.size}`,
    isValid: (text) => names.has(text),
    isRight: (text, { target }) => text === target,
  };
}

function datesTask(folder: string): Task {
  const whole = new RegExp(`^(?:${DATE})$`, "u");
  return {
    name: "datenorm",
    prefix: join(ROOT, "prefixes/datenorm"),
    rows: sampleOf(readTask(folder, "datenorm", "dev"), ROWS),
    form: { kind: "regex", source: DATE },
    formName: "regex",
    isValid: (text) => whole.test(text),
    isRight: (text, { target }) => text === target,
  };
}

/** `inform city : SFO | affirm` becomes `["inform city : SFO", "affirm"]`. */
function slotsTask(folder: string): Task {
  const actsOf = ({ target }: TaskRow): string[] => target.split(" | ");
  const train = readTask(folder, "sgd_slots", "train");
  const acts = train.flatMap(actsOf).map((act) => act.split(" : "));
  const withValue = new Set(acts.filter(({ length }) => length > 1).map(([name]) => name!));
  const alone = new Set(acts.filter(({ length }) => length === 1).map(([name]) => name!));
  const schema = {
    type: "array",
    items: {
      anyOf: [{ enum: [...alone] }, { type: "string", pattern: `^(${[...withValue].join("|")}) : [^|]{1,60}$` }],
    },
    minItems: 1,
    maxItems: 8,
  };
  const validate = new Ajv2020().compile(schema);
  const sorted = (value: unknown): unknown => (Array.isArray(value) ? value.toSorted() : value);
  return {
    name: "slots",
    prefix: trained(
      `slots-${TRAIN_STEPS}`,
      train.map((row) => ({
        prompt: promptOf(row),
        completion: ` [${actsOf(row)
          .map((act) => JSON.stringify(act))
          .join(", ")}]`,
      })),
    ),
    rows: sampleOf(readTask(folder, "sgd_slots", "dev"), ROWS),
    form: { kind: "json", schema },
    formName: "JSON",
    isValid: (text) => validate(parsed(text)),
    isRight: (text, row) => isDeepStrictEqual(sorted(parsed(text)), sorted(actsOf(row))),
  };
}

/** undefined: it is not JSON. */
function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The folder of a prefix that is trained on these lines, if it has not been. */
function trained(name: string, examples: readonly { readonly prompt: string; readonly completion: string }[]): string {
  const folder = join(CACHE, name);
  if (existsSync(join(folder, "adapter_model.safetensors"))) return folder;
  mkdirSync(CACHE, { recursive: true });
  const data = join(CACHE, `${name}.jsonl`);
  writeFileSync(data, examples.map((example) => `${JSON.stringify(example)}\n`).join(""));
  const command = ["train", "--data", data, "--out", folder, "--steps", String(TRAIN_STEPS), "--force"];
  const { status } = spawnSync(process.execPath, ["--import", "tsx", join(ROOT, "src/cli/main.ts"), ...command], {
    stdio: "inherit",
  });
  if (status !== 0) throw new Error(`prefixd train ended with ${status}`);
  return folder;
}
