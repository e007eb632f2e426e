import { defaultLearningRate } from "../defaults.ts";
import type { TrainRequest } from "../job.ts";
import { BAD_LINES } from "./check-data.ts";
import type { JobSettings } from "./types.ts";

/** Defaults of `prefixd train`. */
const HOLD_OUT = 0.05;
/** Memory for one run of the model, in bytes. */
const RUN_BYTES = 2 ** 30;

export interface RequestPlaces extends Pick<TrainRequest, "model" | "cacheDir" | "data" | "evalData"> {
  readonly threads: number;
}

/** What `prefixd train` would be asked for. */
export function requestOf(settings: JobSettings, { threads, ...places }: RequestPlaces): TrainRequest {
  const { hidden, rateFactor, epochs, initText, ...options } = settings;
  return {
    ...places,
    holdOut: HOLD_OUT,
    maxTokens: null,
    tooLong: "refuse",
    badLines: BAD_LINES,
    initial: initText === null ? { kind: "random" } : { kind: "text", text: initText },
    epochs,
    options: {
      ...options,
      hidden,
      learningRate: rateFactor * defaultLearningRate(hidden),
      warmup: null,
      weightDecay: 0,
      clip: 1,
      dropout: 0,
      evaluateEvery: null,
      patience: 0,
      memory: RUN_BYTES,
      threads,
    },
  };
}
