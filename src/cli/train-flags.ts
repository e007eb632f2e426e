/** The flags of `prefixd train`. */
import { resolve } from "node:path";
import { parseConfig } from "../config.ts";
import { ConfigError } from "../errors.ts";
import { DEFAULT_BATCH, DEFAULT_EPOCHS, LEAST_STEPS, MOST_STEPS } from "../training/defaults.ts";
import type { TrainRequest } from "../training/job.ts";
import { TRIGGERS } from "../training/options.ts";
import { readArguments } from "./arguments.ts";

export const USAGE = `Usage: prefixd train --data FILE --out DIR [flags]
       prefixd train --resume --out DIR

Trains a prefix for a frozen model and writes it as PEFT does, or searches for tokens and writes them as a hard prompt. FILE has one line of JSON per example: {"prompt": "...", "completion": "..."}.
The prefix learns the completion and the end of text, not the prompt.

  --data FILE            the examples
  --out DIR              where the adapter is written (default with --id: ./NAME)
  --id NAME              also register the adapter with a running server under this name
  --url URL              that server; else PREFIXD_URL, else http://127.0.0.1:8080
  --key-file FILE        the user's key there; else the variable PREFIXD_KEY
  --force                overwrite what is in DIR
  --resume               continue the interrupted training in DIR, to the same bits; takes only --out, --id, --url, --key-file besides
Model
  --model DIR|ORG/NAME   the frozen model, as in prefixd serve (default: the demo model)
  --cache-dir DIR        as in prefixd serve
  --threads N            as in prefixd serve
  --device cpu|webgpu|cuda  where it is trained (default cpu)
  --pack-weights         copy the weights into the form that the CPU multiplies fastest, for twice their size in memory
Evaluation
  --eval FILE            examples to evaluate on, not to train on
  --hold-out X           without --eval: this share of the data, at most 200 examples (default 0.05; 0: no evaluation)
  --eval-every N         steps between evaluations (default: 8 evaluations in all); the best evaluation's values are written
  --patience N           stop after N evaluations without a better one (default 0: never)
Training
  --kind prefix|prompt|triggers  keys and values of every layer, embeddings, or tokens that are searched for (default prefix)
  --virtual-tokens N     length of the prefix (default 10)
  --network N            train a prefix through a network of this hidden size, as Li & Liang do (default 0: none)
  --steps N              updates (default: ${DEFAULT_EPOCHS} epochs, but from ${LEAST_STEPS} to ${MOST_STEPS} updates; of triggers ${TRIGGERS.steps})
  --epochs X             instead of --steps: passes over the data
  --batch-size N         examples per update (default ${DEFAULT_BATCH})
  --learning-rate X      (default 0.1; with --network 0.003)
  --warmup N             steps until that rate is reached; then it falls to 0 (default: a tenth of the steps, at most 20)
  --weight-decay X       (default 0)
  --clip X               largest norm of the gradient (default 1; 0: no limit)
  --dropout X            share of the prefix's values that are zeroed at random (default 0)
  --init-text TEXT       start from this text as the model reads it (default: random tokens; --network: random weights)
  --init-from DIR        start from another adapter with as many virtual tokens
  --init-normal          start from N(0, 1), as PEFT does
  --seed N               (default 1)
Triggers
  --tokens N             how many (default 5)
  --candidates N         tokens that an update tries at one position (default 20)
  --any-token            also tokens that cannot be typed, such as parts of characters; never special ones
  --init-text TEXT       start from its tokens, repeated or cut to fit (default: "the", repeated)
Data
  --max-tokens N         longest example in tokens (default: what fits the model)
  --cut                  drop the start of prompts that are too long; without it such lines are bad
  --bad-lines X          tolerated share of bad lines; each is reported (default 0.01)
  --memory-mib N         memory for one run of the model; larger batches run in parts (default 1024)

Exit code 0: done; 1: it failed; 2: bad usage; 130: interrupted (Ctrl-C), and DIR keeps the state to --resume from.
`;

const OPTIONS = {
  data: { type: "string" },
  out: { type: "string" },
  id: { type: "string" },
  url: { type: "string" },
  "key-file": { type: "string" },
  force: { type: "boolean" },
  resume: { type: "boolean" },
  model: { type: "string" },
  "cache-dir": { type: "string" },
  threads: { type: "string" },
  eval: { type: "string" },
  "hold-out": { type: "string" },
  "eval-every": { type: "string" },
  patience: { type: "string" },
  kind: { type: "string" },
  device: { type: "string" },
  "pack-weights": { type: "boolean" },
  tokens: { type: "string" },
  candidates: { type: "string" },
  "any-token": { type: "boolean" },
  "virtual-tokens": { type: "string" },
  network: { type: "string" },
  steps: { type: "string" },
  epochs: { type: "string" },
  "batch-size": { type: "string" },
  "learning-rate": { type: "string" },
  warmup: { type: "string" },
  "weight-decay": { type: "string" },
  clip: { type: "string" },
  dropout: { type: "string" },
  "init-text": { type: "string" },
  "init-from": { type: "string" },
  "init-normal": { type: "boolean" },
  seed: { type: "string" },
  "max-tokens": { type: "string" },
  cut: { type: "boolean" },
  "bad-lines": { type: "string" },
  "memory-mib": { type: "string" },
  help: { type: "boolean", short: "h" },
} as const;

type Values = ReturnType<typeof readArguments<typeof OPTIONS>>["values"];
/** Flags of triggers alone, and those that mean nothing to them. */
const OF_TRIGGERS = ["tokens", "candidates", "any-token"] as const;
const NOT_OF_TRIGGERS = [
  ...(["virtual-tokens", "network", "learning-rate", "warmup"] as const),
  ...(["weight-decay", "clip", "dropout", "init-from", "init-normal"] as const),
];
/** Flags that may be given with --resume. */
const WITH_RESUME = new Set(["resume", "out", "id", "url", "key-file"]);

export interface TrainCommand {
  readonly out: string;
  readonly id: string | null;
  readonly url: string | undefined;
  /** The file of the user's key. */
  readonly keyFile: string | undefined;
  readonly force: boolean;
  /** Null: resume from the state in `out`. */
  readonly request: TrainRequest | null;
}

/**
 * @param env settings of `prefixd serve` that it shares, as in `parseConfig`
 * @throws ConfigError that names the flag
 */
export function readTrainFlags(
  args: readonly string[],
  env: Readonly<Record<string, string | undefined>> = process.env,
): TrainCommand | "help" {
  const { values, positionals } = readArguments("train", args, OPTIONS, USAGE);
  if (values.help === true) return "help";
  if (positionals.length > 0) throw new ConfigError(`train: unexpected operand ${positionals[0]}`);
  const out = values.out ?? values.id;
  if (out === undefined) throw new ConfigError("train: give --out DIR or --id NAME");
  if (values.resume === true) {
    const other = Object.keys(values).find((name) => !WITH_RESUME.has(name));
    if (other !== undefined) throw new ConfigError(`train: --${other}: cannot be changed with --resume`);
  }
  return {
    out: resolve(out),
    id: values.id ?? null,
    url: values.url,
    keyFile: values["key-file"],
    force: values.force === true,
    request: values.resume === true ? null : requestOf(values, env),
  };
}

function requestOf(values: Values, env: Readonly<Record<string, string | undefined>>): TrainRequest {
  if (values.data === undefined) throw new ConfigError("train: give --data FILE");
  if (values.steps !== undefined && values.epochs !== undefined) throw both("steps", "epochs");
  if (values.eval !== undefined && values["hold-out"] !== undefined) throw both("eval", "hold-out");
  const beginnings = (["init-text", "init-from", "init-normal"] as const).filter((name) => values[name] !== undefined);
  if (beginnings.length > 1) throw both(beginnings[0]!, beginnings[1]!);
  const kind = oneOf("kind", values.kind ?? "prefix", ["prefix", "prompt", "triggers"]);
  const wrong = (kind === "triggers" ? NOT_OF_TRIGGERS : OF_TRIGGERS).find((name) => values[name] !== undefined);
  if (wrong !== undefined)
    throw new ConfigError(
      `train: --${wrong} is not for --kind ${kind}${wrong === "virtual-tokens" ? ": give --tokens" : ""}`,
    );
  const forServe = (["model", "cache-dir", "threads", "device"] as const).flatMap((name) =>
    values[name] === undefined ? [] : [`--${name}=${values[name]}`],
  );
  const config = parseConfig(forServe, env);
  if (config === "help") throw new Error("no help was asked for");
  if (values["pack-weights"] === true && config.device !== "cpu")
    throw new ConfigError(`train: --pack-weights is not for --device ${config.device}`);
  const whole = (name: keyof Values, least: number): number | null => numberOf(values, name, least, 2 ** 31 - 1, true);
  const above0 = (name: keyof Values): number | null => numberOf(values, name, Number.MIN_VALUE, Infinity, false);
  const from0 = (name: keyof Values): number | null => numberOf(values, name, 0, Infinity, false);
  const share = (name: keyof Values): number | null => numberOf(values, name, 0, 1, false);
  const network = whole("network", 0) ?? 0;
  return {
    model: config.model,
    cacheDir: config.cacheDir,
    data: resolve(values.data),
    evalData: values.eval === undefined ? null : resolve(values.eval),
    holdOut: share("hold-out") ?? 0.05,
    maxTokens: whole("max-tokens", 2),
    tooLong: values.cut === true ? "cut" : "refuse",
    badLines: share("bad-lines") ?? 0.01,
    initial:
      values["init-text"] !== undefined
        ? { kind: "text", text: values["init-text"] }
        : values["init-from"] !== undefined
          ? { kind: "folder", dir: resolve(values["init-from"]) }
          : { kind: values["init-normal"] === true ? "normal" : "random" },
    epochs: above0("epochs"),
    options: {
      kind,
      ...(kind === "triggers"
        ? {
            virtualTokens: whole("tokens", 1) ?? TRIGGERS.tokens,
            candidates: whole("candidates", 1) ?? TRIGGERS.candidates,
            ...(values["any-token"] === true ? { anyToken: true as const } : {}),
          }
        : { virtualTokens: whole("virtual-tokens", 1) ?? 10 }),
      ...(config.device === "cpu" ? {} : { deviceKind: config.device }),
      ...(values["pack-weights"] === true ? { packWeights: true as const } : {}),
      hidden: network === 0 ? null : network,
      batchSize: whole("batch-size", 1) ?? DEFAULT_BATCH,
      steps: whole("steps", 1) ?? (kind === "triggers" ? TRIGGERS.steps : null),
      learningRate: above0("learning-rate"),
      warmup: whole("warmup", 0),
      weightDecay: from0("weight-decay") ?? 0,
      clip: from0("clip") ?? 1,
      dropout: share("dropout") ?? 0,
      evaluateEvery: whole("eval-every", 1),
      patience: whole("patience", 0) ?? 0,
      seed: whole("seed", 0) ?? 1,
      memory: (whole("memory-mib", 1) ?? 1024) * 2 ** 20,
      threads: config.threads,
    },
  };
}

const both = (a: string, b: string): ConfigError => new ConfigError(`train: --${a} and --${b}: give only one of them`);

function numberOf(values: Values, name: keyof Values, least: number, most: number, isWhole: boolean): number | null {
  const text = values[name];
  if (text === undefined) return null;
  const value = Number(text);
  const isNumber = /^\d+(\.\d+)?(e-?\d+)?$/.test(String(text)) && (!isWhole || Number.isInteger(value));
  if (isNumber && value >= least && value <= most) return value;
  const range = most === 1 ? "from 0 to 1" : least === 0 ? "from 0" : isWhole ? `from ${least}` : "above 0";
  throw new ConfigError(`train: --${name} ${String(text)}: expected a ${isWhole ? "whole " : ""}number ${range}`);
}

function oneOf<T extends string>(name: string, given: string, allowed: readonly T[]): T {
  const found = allowed.find((value) => value === given);
  if (found === undefined)
    throw new ConfigError(
      `train: --${name} ${given}: expected ${allowed.slice(0, -1).join(", ")} or ${allowed.at(-1)}`,
    );
  return found;
}
