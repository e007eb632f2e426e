/** Uniform in [0, 1). */
export type Random = () => number;

/** Mulberry32: small, seeded, and good enough for drawing a load. */
export function seededRandom(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** An independent stream per purpose, so that an extra draw for one does not shift the others. */
export function fork(seed: number, purpose: string): Random {
  let hash = 0x811c9dc5 ^ seed;
  for (let i = 0; i < purpose.length; i++) hash = Math.imul(hash ^ purpose.charCodeAt(i), 0x01000193);
  return seededRandom(hash);
}

/** Exponential with mean 1, by inversion. */
export const exponential = (random: Random): number => -Math.log(1 - random());

/** Standard normal (Box and Muller). */
export const normal = (random: Random): number => Math.sqrt(2 * exponential(random)) * Math.cos(2 * Math.PI * random());

export const chance = (random: Random, share: number): boolean => share > 0 && random() < share;

/** Whole number in [0, below). */
export const below = (random: Random, limit: number): number => Math.floor(random() * limit);
