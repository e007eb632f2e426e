/** AdamW and its learning rate. */

/** An array that is trained. */
export interface Parameter {
  readonly shape: readonly number[];
  readonly values: Float32Array;
  readonly gradient: Float32Array;
}

export interface AdamWOptions {
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly weightDecay: number;
}

/** torch's, but for weight decay. */
export const ADAMW: AdamWOptions = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 };

/**
 * Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2; torch.optim.AdamW), in one pass over host
 * arrays: a prefix has few values.
 */
export class AdamW {
  /** Running means of the gradients and of their squares, and the number of updates: all of the optimizer's state. */
  readonly first: readonly Float32Array[];
  readonly second: readonly Float32Array[];
  updates = 0;
  readonly #parameters: readonly Parameter[];
  readonly #options: AdamWOptions;

  constructor(parameters: readonly Parameter[], options: Partial<AdamWOptions> = {}) {
    this.#parameters = parameters;
    this.#options = { ...ADAMW, ...options };
    this.first = parameters.map(({ values }) => new Float32Array(values.length));
    this.second = parameters.map(({ values }) => new Float32Array(values.length));
  }

  /** @param scale multiplies the gradients, to clip them */
  update(rate: number, scale = 1): void {
    const { beta1, beta2, epsilon, weightDecay } = this.#options;
    this.updates++;
    const size = rate / (1 - beta1 ** this.updates);
    const unbias = 1 / Math.sqrt(1 - beta2 ** this.updates);
    const keep = 1 - rate * weightDecay;
    for (const [i, { values, gradient }] of this.#parameters.entries()) {
      const [m, v] = [this.first[i]!, this.second[i]!];
      for (let at = 0; at < values.length; at++) {
        const g = gradient[at]! * scale;
        const mean = (m[at] = beta1 * m[at]! + (1 - beta1) * g);
        const square = (v[at] = beta2 * v[at]! + (1 - beta2) * g * g);
        values[at] = values[at]! * keep - (size * mean) / (Math.sqrt(square) * unbias + epsilon);
      }
    }
  }
}

/** The length of all gradients taken as one vector. */
export function gradientNorm(parameters: readonly Parameter[]): number {
  let sum = 0;
  for (const { gradient } of parameters) for (let at = 0; at < gradient.length; at++) sum += gradient[at]! ** 2;
  return Math.sqrt(sum);
}

/** The factor that limits the norm to `limit` (torch's clip_grad_norm_); 0: no limit. */
export function clipFactor(norm: number, limit: number): number {
  return limit > 0 ? Math.min(1, limit / (norm + 1e-6)) : 1;
}

/**
 * The share of the peak learning rate at update `step` (from 0) of `steps`: up from 0 over `warmup` updates, then down
 * to 0, both linearly (transformers' get_linear_schedule_with_warmup).
 */
export function linearSchedule(step: number, steps: number, warmup: number): number {
  if (step < warmup) return step / warmup;
  return Math.max(0, (steps - step) / Math.max(1, steps - warmup));
}
