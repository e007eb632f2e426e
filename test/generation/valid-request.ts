import { DEFAULT_SAMPLING } from "../../src/engine/request.ts";
import { exactly } from "../../src/generation/lengths.ts";
import type { ValidGenerateRequest } from "../../src/generation/service.ts";

/** Three greedy tokens of the base model after "ab", changed by `over`. */
export function request(over: Partial<ValidGenerateRequest> = {}): ValidGenerateRequest {
  return {
    id: "gen-1",
    user: "local",
    prefix: null,
    prompts: [Int32Array.of(97, 98)],
    n: 1,
    bestOf: null,
    beams: null,
    echo: false,
    ...exactly(3),
    sampling: DEFAULT_SAMPLING,
    seed: 7,
    logprobs: null,
    stop: [],
    stopTokenIds: [],
    ignoreEos: false,
    constraint: null,
    ...over,
  };
}
