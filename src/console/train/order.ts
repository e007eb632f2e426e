/** What a job is asked for: as typed, and as `POST /v1/fine_tuning/jobs` takes it. */
import type { Job } from "./progress.ts";

/** What a job without settings has. */
export const DEFAULTS = { batch: 8, tokens: 10, rate: { plain: 0.1, network: 0.003 } };

/** As typed. */
export interface Order {
  readonly name: string;
  readonly kind: "prefix" | "network" | "prompt";
  /** Empty: as the number of lines asks for. */
  readonly steps: string;
  readonly batch: string;
  readonly rate: string;
  readonly tokens: string;
  readonly initText: string;
  /** Id of the file to evaluate on; empty: a part of the training file. */
  readonly held: string;
}

export const EMPTY_ORDER: Order = {
  name: "",
  kind: "prefix",
  steps: "",
  batch: String(DEFAULTS.batch),
  rate: String(DEFAULTS.rate.plain),
  tokens: String(DEFAULTS.tokens),
  initText: "",
  held: "",
};

export const defaultRate = (kind: Order["kind"]): number => DEFAULTS.rate[kind === "network" ? "network" : "plain"];

/** The body of `POST /v1/fine_tuning/jobs`; the server has the last word on values. */
export function orderBody(order: Order, model: string, file: string): object {
  const { name, kind, steps, batch, rate, tokens, initText, held } = order;
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
          learning_rate_multiplier: Number((Number(rate) / defaultRate(kind)).toPrecision(9)),
          num_virtual_tokens: Number(tokens),
          peft_type: kind === "prompt" ? "PROMPT_TUNING" : "PREFIX_TUNING",
          ...(kind === "network" ? { prefix_projection: true } : {}),
          ...(initText === "" ? {} : { init_text: initText }),
        },
      },
    },
  };
}

/** The same settings, to begin again. */
export function orderOf({ prefix_id, hyperparameters: given }: Job): Order {
  const kind = given.peft_type === "PROMPT_TUNING" ? "prompt" : given.prefix_projection === true ? "network" : "prefix";
  const factor = typeof given.learning_rate_multiplier === "number" ? given.learning_rate_multiplier : 1;
  return {
    ...EMPTY_ORDER,
    name: prefix_id,
    kind,
    steps: String(given.n_steps ?? ""),
    batch: String(typeof given.batch_size === "number" ? given.batch_size : DEFAULTS.batch),
    rate: String(Number((factor * defaultRate(kind)).toPrecision(9))),
    tokens: String(given.num_virtual_tokens ?? DEFAULTS.tokens),
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
