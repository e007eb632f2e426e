import { PLAIN, type GenerateBody } from "./client.ts";
import { drawLength, popularity } from "./distributions.ts";
import type { LoadPrefix } from "./population.ts";
import { below, chance, fork, type Random } from "./random.ts";
import type { Group, Scenario } from "./scenario.ts";
import type { TraceLine } from "./trace.ts";
import type { Case } from "./verify.ts";

/** A request as drawn, not yet sent. */
export interface Draft {
  readonly prefix: LoadPrefix | null;
  readonly case: Case | null;
  readonly body: GenerateBody;
  readonly disconnectAfter?: number;
  readonly bytesPerSecond?: number;
}

export interface Pools {
  readonly prefixes: readonly LoadPrefix[];
  readonly poisoned: readonly LoadPrefix[];
  readonly cases: readonly Case[];
  readonly vocabulary: number;
}

/** Draws one group's requests, deterministically for a seed. */
export class RequestSource {
  readonly #scenario: Scenario;
  readonly #group: Group;
  readonly #pools: Pools;
  readonly #random: Random;
  readonly #popular: (random: Random) => number;
  readonly #trace: readonly TraceLine[] | null;
  #line = 0;

  constructor(scenario: Scenario, group: Group, pools: Pools, trace: readonly TraceLine[] | null) {
    this.#scenario = scenario;
    this.#group = group;
    this.#pools = pools;
    this.#trace = trace;
    this.#random = fork(scenario.seed ?? 1, `requests of ${group.name}`);
    this.#popular = popularity(scenario.prefixes.popularity, pools.prefixes.length);
  }

  next(): Draft {
    const random = this.#random;
    const { requests } = this.#group;
    const streams = chance(random, requests.stream ?? 1);
    const { prompt_tokens, max_new_tokens } = this.#lengths();
    if (this.#pools.cases.length > 0 && chance(random, this.#scenario.verify.share)) {
      const one = this.#pools.cases[below(random, this.#pools.cases.length)]!;
      return { prefix: one.prefix, case: one, body: { ...one.body, stream: streams } };
    }
    const prefix = this.#prefix();
    const samples = chance(random, requests.sample ?? 0);
    const body: GenerateBody = {
      prompt: Array.from({ length: prompt_tokens }, () => below(random, this.#pools.vocabulary)),
      max_new_tokens,
      ...PLAIN,
      stream: streams,
      ...(prefix === null ? {} : { prefix_id: prefix.id }),
      ...(requests.logprobs === undefined ? {} : { logprobs: requests.logprobs }),
      ...(samples
        ? { do_sample: true, seed: below(random, 2 ** 32), ...(requests.n === undefined ? {} : { n: requests.n }) }
        : {}),
    };
    const { slow_readers: slow, disconnects } = requests;
    if (streams && disconnects && chance(random, disconnects.share))
      return { prefix, case: null, body, disconnectAfter: drawLength(disconnects.after_tokens, random) };
    if (streams && slow && chance(random, slow.share))
      return { prefix, case: null, body, bytesPerSecond: slow.bytes_per_s };
    return { prefix, case: null, body };
  }

  #prefix(): LoadPrefix | null {
    const { base_model = 0 } = this.#group.requests;
    const { share = 0 } = this.#scenario.prefixes.poisoned ?? {};
    if (chance(this.#random, base_model)) return null;
    if (this.#pools.poisoned.length > 0 && chance(this.#random, share))
      return this.#pools.poisoned[below(this.#random, this.#pools.poisoned.length)]!;
    return this.#pools.prefixes[this.#popular(this.#random)]!;
  }

  /** Cycles through the trace; without one, draws lengths, which the scenario's check guarantees to be given. */
  #lengths(): Pick<TraceLine, "prompt_tokens" | "max_new_tokens"> {
    if (this.#trace !== null) return this.#trace[this.#line++ % this.#trace.length]!;
    const { prompt_tokens = 1, max_new_tokens = 1 } = this.#group.requests;
    return {
      prompt_tokens: drawLength(prompt_tokens, this.#random),
      max_new_tokens: drawLength(max_new_tokens, this.#random),
    };
  }
}
