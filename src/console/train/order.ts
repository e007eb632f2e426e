/** What a job is asked for: as typed, and as `POST /v1/fine_tuning/jobs` takes it. */
import { isSearch, type Job } from "./progress.ts";

/** What a job without settings has. A search has no rate. */
export const DEFAULT_BATCH = 8;
export const DEFAULTS = {
  prefix: { tokens: 10, rate: 0.1 },
  network: { tokens: 10, rate: 0.003 },
  prompt: { tokens: 10, rate: 0.1 },
  triggers: { tokens: 5, rate: null, steps: 100, candidates: 20 },
} as const;

/** As typed. */
export interface Order {
  readonly name: string;
  readonly kind: keyof typeof DEFAULTS;
  /** Empty: as the number of lines asks for. */
  readonly steps: string;
  readonly batch: string;
  readonly rate: string;
  readonly tokens: string;
  /** Tokens that a step of a search tries. */
  readonly candidates: string;
  readonly initText: string;
  /** Id of the file to evaluate on; empty: a part of the training file. */
  readonly held: string;
}

export const EMPTY_ORDER: Order = {
  name: "",
  kind: "prefix",
  steps: "",
  batch: String(DEFAULT_BATCH),
  rate: String(DEFAULTS.prefix.rate),
  tokens: String(DEFAULTS.prefix.tokens),
  candidates: String(DEFAULTS.triggers.candidates),
  initText: "",
  held: "",
};

/** Of another kind: its rate and, unless others were typed, its number of tokens. */
export function withKind(order: Order, kind: Order["kind"]): Order {
  const [from, to] = [DEFAULTS[order.kind], DEFAULTS[kind]];
  const tokens = order.tokens === String(from.tokens) ? String(to.tokens) : order.tokens;
  return { ...order, kind, tokens, rate: String(to.rate ?? "") };
}

const PEFT_TYPES = {
  prefix: "PREFIX_TUNING",
  network: "PREFIX_TUNING",
  prompt: "PROMPT_TUNING",
  triggers: "TRIGGERS",
} as const;

/** The body of `POST /v1/fine_tuning/jobs`; the server has the last word on values. */
export function orderBody(order: Order, model: string, file: string): object {
  const { name, kind, steps, batch, rate, tokens, candidates, initText, held } = order;
  const defaultRate = DEFAULTS[kind].rate;
  return {
    model,
    training_file: file,
    ...(held === "" ? {} : { validation_file: held }),
    prefix_id: name,
    method: {
      type: "supervised",
      supervised: {
        hyperparameters: {
          ...(steps === "" ? {} : { n_steps: Number(steps) }),
          batch_size: Number(batch),
          // As few digits as the typed rate has: 0.3 / 0.1 is not quite 3.
          ...(defaultRate === null
            ? { num_candidates: Number(candidates) }
            : { learning_rate_multiplier: Number((Number(rate) / defaultRate).toPrecision(9)) }),
          num_virtual_tokens: Number(tokens),
          peft_type: PEFT_TYPES[kind],
          ...(kind === "network" ? { prefix_projection: true } : {}),
          ...(initText === "" ? {} : { init_text: initText }),
        },
      },
    },
  };
}

/** The same settings, to begin again. */
export function orderOf(job: Job): Order {
  const { prefix_id, hyperparameters: given } = job;
  const kind = isSearch(job)
    ? "triggers"
    : given.peft_type === "PROMPT_TUNING"
      ? "prompt"
      : given.prefix_projection === true
        ? "network"
        : "prefix";
  const defaults = DEFAULTS[kind];
  const factor = typeof given.learning_rate_multiplier === "number" ? given.learning_rate_multiplier : 1;
  return {
    ...EMPTY_ORDER,
    name: prefix_id,
    kind,
    steps: String(given.n_steps ?? ""),
    batch: String(typeof given.batch_size === "number" ? given.batch_size : DEFAULT_BATCH),
    rate: defaults.rate === null ? "" : String(Number((factor * defaults.rate).toPrecision(9))),
    tokens: String(given.num_virtual_tokens ?? defaults.tokens),
    candidates: String(given.num_candidates ?? EMPTY_ORDER.candidates),
    initText: given.init_text ?? "",
  };
}

/** A name for the prefix, from the name of the file that it learns. */
export function proposedName(filename: string): string {
  return filename
    .replace(/\.[^.]*$/, "")
    .replaceAll(/[^A-Za-z0-9._-]+/g, "-")
    .replace(/^[^A-Za-z0-9]+/, "")
    .slice(0, 100);
}
