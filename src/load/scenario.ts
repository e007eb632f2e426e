import { readFileSync } from "node:fs";
import Type, { type Static, type TSchema } from "typebox";
import { Compile } from "typebox/compile";
import { ArrivalsSchema, totalSeconds, type Arrivals } from "./arrivals.ts";
import { LengthSchema, PopularitySchema } from "./distributions.ts";
import { CriteriaSchema } from "./criteria-schema.ts";

/** A defect of a scenario, flag or file: bad usage, nothing has been sent. */
export class ScenarioError extends Error {
  override readonly name = "ScenarioError";
}

const { Optional } = Type;
const strict = <T extends Record<string, TSchema>>(properties: T) =>
  Type.Object(properties, { additionalProperties: false });
const Share = Type.Number({ minimum: 0, maximum: 1 });
const PerSecond = Type.Number({ minimum: 0, maximum: 10_000 });
const Name = Type.String({ pattern: "^[a-z0-9][a-z0-9-]{0,23}$" });
const limit = Type.Integer({ minimum: 0 });

/**
 * The shape of requests. Shares are of requests: `stream: 0.8` streams four out of five. Lengths come from a trace if
 * there is one.
 */
export const RequestsSchema = strict({
  prompt_tokens: Optional(LengthSchema),
  max_new_tokens: Optional(LengthSchema),
  trace: Optional(
    Type.String({
      minLength: 1,
      description: "JSONL file: prompt_tokens, max_new_tokens and, for arrivals of kind trace, at_s",
    }),
  ),
  stream: Optional(Share),
  sample: Optional(Share),
  base_model: Optional(Share),
  logprobs: Optional(Type.Integer({ minimum: 0, maximum: 20 })),
  n: Optional(Type.Integer({ minimum: 1, maximum: 64, description: "Choices; for the share that samples" })),
  slow_readers: Optional(strict({ share: Share, bytes_per_s: Type.Integer({ minimum: 1 }) })),
  disconnects: Optional(strict({ share: Share, after_tokens: LengthSchema })),
});

/** Users with the same behaviour. */
export const GroupSchema = strict({
  name: Name,
  users: Optional(Type.Integer({ minimum: 1, maximum: 10_000 })),
  weight: Optional(Type.Number({ exclusiveMinimum: 0, maximum: 1000 })),
  limits: Optional(
    strict({ max_running: Optional(limit), max_queued: Optional(limit), tokens_per_minute: Optional(limit) }),
  ),
  arrivals: ArrivalsSchema,
  requests: RequestsSchema,
});
export type Group = Static<typeof GroupSchema>;

export const PrefixesSchema = strict({
  count: Type.Integer({ minimum: 1, maximum: 100_000 }),
  kind: Optional(
    Type.Enum(["auto", "peft", "hard"], {
      description: "peft needs the model's shape; auto uses hard prompts if it is unknown",
    }),
  ),
  virtual_tokens: LengthSchema,
  popularity: PopularitySchema,
  poisoned: Optional(
    Type.Object(
      { count: Type.Integer({ minimum: 1, maximum: 100 }), share: Share },
      {
        additionalProperties: false,
        description: "Prefixes whose values overflow, and the share of requests that use one",
      },
    ),
  ),
});

export const ChurnSchema = strict({
  prefixes: Type.Integer({ minimum: 1, maximum: 10_000, description: "This many of the most popular prefixes change" }),
  replace_per_s: Optional(PerSecond),
  recreate_per_s: Optional(PerSecond),
  register_per_s: Optional(PerSecond),
  remove_user_per_s: Optional(PerSecond),
});

export const ScenarioSchema = strict({
  name: Name,
  description: Type.String(),
  needs_users: Optional(Type.Boolean({ description: "Needs several users, and so an admin key" })),
  seed: Optional(Type.Integer({ minimum: 0, maximum: 0xffff_ffff })),
  prefixes: PrefixesSchema,
  peak_of_capacity: Optional(
    Type.Number({
      exclusiveMinimum: 0,
      maximum: 1000,
      description: "The open loops' peak, as a multiple of what --calibrate measures",
    }),
  ),
  groups: Type.Array(GroupSchema, { minItems: 1, maxItems: 100 }),
  churn: Optional(ChurnSchema),
  verify: strict({
    cases: Type.Integer({ minimum: 0, maximum: 1000 }),
    share: Share,
    prompt_tokens: LengthSchema,
    max_new_tokens: LengthSchema,
  }),
  slo: strict({ ttft_ms: Type.Number({ exclusiveMinimum: 0 }), inter_token_ms: Type.Number({ exclusiveMinimum: 0 }) }),
  pass: CriteriaSchema,
});
export type Scenario = Static<typeof ScenarioSchema>;

export const SCENARIOS = [
  "smoke",
  "steady",
  "spike",
  "zipf-100k",
  "churn",
  "noisy-neighbour",
  "slow-clients",
  "soak",
] as const;

/** Loads a built-in scenario by name, or a file. Throws ScenarioError. */
export function loadScenario(nameOrFile: string): Scenario {
  const builtIn = (SCENARIOS as readonly string[]).includes(nameOrFile);
  const file = builtIn ? new URL(`scenarios/${nameOrFile}.json`, import.meta.url) : nameOrFile;
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch {
    throw new ScenarioError(`--scenario ${nameOrFile}: neither a file nor one of ${SCENARIOS.join(", ")}`);
  }
  try {
    return parseScenario(JSON.parse(text));
  } catch (error) {
    throw new ScenarioError(`--scenario ${nameOrFile}: ${error instanceof Error ? error.message : String(error)}`);
  }
}

const validator = Compile(ScenarioSchema);

/** Throws ScenarioError, which names the field. */
export function parseScenario(json: unknown): Scenario {
  if (!validator.Check(json)) throw new ScenarioError(explain([...validator.Errors(json)]));
  for (const [index, group] of json.groups.entries()) checkGroup(group, `groups[${index}]`);
  const names = json.groups.map(({ name }) => name);
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined) throw new ScenarioError(`two groups are called ${twice}`);
  const judged = Object.keys(json.pass.groups ?? {}).find((name) => !names.includes(name));
  if (judged !== undefined) throw new ScenarioError(`pass.groups.${judged}: no such group`);
  if (json.churn && json.churn.prefixes > json.prefixes.count)
    throw new ScenarioError(`churn.prefixes is ${json.churn.prefixes}, but there are ${json.prefixes.count} prefixes`);
  return json;
}

function checkGroup({ arrivals, requests }: Group, where: string): void {
  if (arrivals.process === "trace" && requests.trace === undefined)
    throw new ScenarioError(`${where}.arrivals: process trace needs requests.trace`);
  if (requests.trace !== undefined) return;
  if (requests.prompt_tokens === undefined || requests.max_new_tokens === undefined)
    throw new ScenarioError(`${where}.requests needs prompt_tokens and max_new_tokens, or a trace`);
}

interface Finding {
  readonly keyword: string;
  readonly instancePath: string;
  readonly message: string;
  readonly params: object;
}

/**
 * In a union every branch reports errors: the deepest one is from the branch that was meant. `boolean` repeats
 * `additionalProperties`.
 */
function explain(findings: readonly Finding[]): string {
  const depth = ({ instancePath, keyword }: Finding): number =>
    instancePath.split("/").length * 2 + (keyword === "anyOf" || keyword === "type" || keyword === "const" ? 0 : 1);
  const finding = findings.filter(({ keyword }) => keyword !== "boolean").sort((a, b) => depth(b) - depth(a))[0];
  if (finding === undefined) return "it is not valid";
  const path =
    finding.instancePath
      .slice(1)
      .replace(/\/(\d+)(?=\/|$)/g, "[$1]")
      .replaceAll("/", ".") || "the scenario";
  if (finding.keyword === "additionalProperties" && "additionalProperties" in finding.params)
    return `${path} has a field that does not exist: ${String(finding.params.additionalProperties)}`;
  if (finding.keyword === "enum" && "allowedValues" in finding.params)
    return `${path} must be one of ${String(finding.params.allowedValues)}`;
  return `${path} ${finding.message}`;
}

/** What flags override in a scenario. */
export interface Overrides {
  readonly duration?: number;
  /** Requests per second of all open loops together, at their peak. */
  readonly rate?: number;
  /** Clients of all closed loops together, at their peak. */
  readonly clients?: number;
  readonly prefixes?: number;
  readonly seed?: number;
  readonly trace?: string;
  readonly peakOfCapacity?: number;
}

/** An open loop's peak in requests per second; 0 for other arrivals. */
export const peakRate = (arrivals: Arrivals): number =>
  arrivals.process === "poisson" ? Math.max(...arrivals.steps.map((step) => Math.max(step.rate, step.to ?? 0))) : 0;

/** Returns a copy of the scenario with the flags' values; steps keep their shape. Throws ScenarioError. */
export function override(
  scenario: Scenario,
  { duration, rate, clients, prefixes, seed, trace, peakOfCapacity }: Overrides,
): Scenario {
  const out = structuredClone(scenario);
  const peak = (of: (arrivals: Arrivals) => number): number =>
    scenario.groups.reduce((sum, { arrivals }) => sum + of(arrivals), 0);
  const ratePeak = peak(peakRate);
  const clientPeak = peak((arrivals) =>
    arrivals.process === "closed" ? Math.max(...arrivals.steps.map((step) => Math.max(step.clients, step.to ?? 0))) : 0,
  );
  if (rate !== undefined && ratePeak === 0) throw new ScenarioError("--rate: the scenario has no open loop");
  if (clients !== undefined && clientPeak === 0) throw new ScenarioError("--clients: the scenario has no closed loop");
  const stretch = duration === undefined ? 1 : duration / durationOf(scenario);
  for (const { arrivals, requests } of out.groups) {
    if (trace !== undefined) requests.trace = trace;
    if (arrivals.process === "trace") continue;
    for (const step of arrivals.steps) {
      step.for_s *= stretch;
      if ("clients" in step) scale(step, "clients", clients === undefined ? 1 : clients / clientPeak, Math.round);
      else scale(step, "rate", rate === undefined ? 1 : rate / ratePeak, (value) => value);
    }
  }
  if (prefixes !== undefined) out.prefixes.count = prefixes;
  if (out.churn) out.churn.prefixes = Math.min(out.churn.prefixes, out.prefixes.count);
  if (seed !== undefined) out.seed = seed;
  if (peakOfCapacity !== undefined) out.peak_of_capacity = peakOfCapacity;
  return parseScenario(out);
}

function scale<K extends string>(
  step: { [key in K | "to"]?: number },
  key: K,
  factor: number,
  round: (value: number) => number,
): void {
  if (step[key] !== undefined) step[key] = round(step[key] * factor);
  if (step.to !== undefined) step.to = round(step.to * factor);
}

/** Seconds of the longest group. A trace's length is known only once it is read. */
export function durationOf(scenario: Scenario): number {
  return Math.max(
    0,
    ...scenario.groups.map(({ arrivals }) => (arrivals.process === "trace" ? 0 : totalSeconds(arrivals.steps))),
  );
}
