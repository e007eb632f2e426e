/** Requests to train on the demo model. */
import { join } from "node:path";
import type { TrainRequest } from "../../src/training/job.ts";

type Options = TrainRequest["options"];

export interface RequestChange extends Partial<Omit<TrainRequest, "options">> {
  readonly options?: Partial<Options>;
}

/** A short training on `data`, whose graphs are kept in `dir`, as `own` options and each request's change make it. */
export function trainRequests(
  { dir, data }: { readonly dir: string; readonly data: string },
  own: Pick<Options, "kind" | "virtualTokens" | "steps" | "warmup" | "evaluateEvery"> & Partial<Options>,
): (change?: RequestChange) => TrainRequest {
  return (change = {}) => ({
    model: "models/demo",
    cacheDir: join(dir, "cache"),
    data,
    evalData: null,
    holdOut: 0.2,
    maxTokens: null,
    tooLong: "refuse",
    badLines: 0,
    initial: { kind: "random" },
    epochs: null,
    ...change,
    options: {
      hidden: null,
      batchSize: 8,
      learningRate: null,
      weightDecay: 0,
      clip: 1,
      dropout: 0,
      patience: 0,
      seed: 1,
      memory: 1 << 30,
      threads: 1,
      ...own,
      ...change.options,
    },
  });
}
