/** Removes secrets from log lines, wherever a client or a library's error has put them. */

/** Consecutive characters a text must share with a secret to give it away. */
const TELLING = 12;
/** Distance between the places where a text is checked, such that each telling substring contains a whole seed. */
const STRIDE = 6;
const SEED = TELLING - STRIDE + 1;

/** A user's key (users/api-key.ts), including mistyped, truncated or upper-case ones. */
const KEY_SHAPE = /pfx[_-]?[0-9a-f]{8,}[A-Za-z0-9_-]*/gi;
/** What may be a key's secret part alone: about 43 characters of base64url. */
const SECRET_SHAPE = /[A-Za-z0-9_-]{40,}/g;
/** Transitions between upper case, lower case and digits within a word, not counting a word's initial capitals. */
const CHANGE = /[a-z](?=\d|[A-Z](?![a-z][a-z]))|\d(?=[A-Za-z])|[A-Z](?=\d)/g;
/** Names made of words have at most this many transitions; of random 43-character secrets, 1 in 16,000 does. */
const CHANGES_OF_WORDS = 1;

const CENSOR = "[redacted]";

type Span = readonly [from: number, to: number];

/** True if a text has the shape of a user's key, near misses included. */
export function looksLikeKey(text: string): boolean {
  return text.search(KEY_SHAPE) >= 0;
}

/** Finds known secrets, and anything shaped like a user's key or its secret part. */
export class SecretFilter {
  /** Each seed's occurrences; lower case. */
  readonly #seeds = new Map<string, { readonly secret: string; readonly at: number }[]>();

  /**
   * @param secrets for example the admin key; those under 12 characters are ignored, since they cannot be told from
   * words
   */
  constructor(secrets: readonly string[]) {
    this.add(secrets);
  }

  /** Redacts these, too, from now on. */
  add(secrets: readonly string[]): void {
    for (const given of secrets) {
      if (given.length < TELLING) continue;
      // Both plain and as escaped in JSON.
      for (const form of new Set([given, JSON.stringify(given).slice(1, -1)])) this.#seed(form.toLowerCase());
    }
  }

  /** Redacts secrets, in any case. A part of a known secret counts if it is long enough to help guess the rest. */
  clean(text: string): string {
    const spans = [
      ...this.#known(text.toLowerCase()),
      ...matches(text, KEY_SHAPE),
      ...matches(text, SECRET_SHAPE, isRandom),
    ].sort(([a], [b]) => a - b);
    let out = "";
    let done = 0;
    for (const [from, to] of spans) {
      if (from >= done) out += text.slice(done, from) + CENSOR;
      done = Math.max(done, to);
    }
    return done === 0 ? text : out + text.slice(done);
  }

  passes(text: string): boolean {
    return this.clean(text) === text;
  }

  #seed(secret: string): void {
    for (let at = 0; at + SEED <= secret.length; at++) {
      const seed = secret.slice(at, at + SEED);
      this.#seeds.set(seed, [...(this.#seeds.get(seed) ?? []), { secret, at }]);
    }
  }

  #known(text: string): Span[] {
    const spans: Span[] = [];
    if (this.#seeds.size === 0) return spans;
    for (let i = 0; i + SEED <= text.length; i += STRIDE) {
      for (const { secret, at } of this.#seeds.get(text.slice(i, i + SEED)) ?? []) {
        let [before, after] = [0, SEED];
        while (at > before && text[i - before - 1] === secret[at - before - 1] && i > before) before++;
        while (at + after < secret.length && text[i + after] === secret[at + after]) after++;
        if (before + after >= TELLING) spans.push([i - before, i + after]);
      }
    }
    return spans;
  }
}

/** For code without secrets of its own, such as tests. */
export const NO_SECRETS = new SecretFilter([]);

function matches(text: string, shape: RegExp, test: (found: string) => boolean = () => true): Span[] {
  return [...text.matchAll(shape)]
    .filter(([found]) => test(found))
    .map(({ 0: found, index }): Span => [index, index + found.length]);
}

/** True if it is more likely random than a name: within a word, upper case, lower case and digits are mixed. */
function isRandom(text: string): boolean {
  const words = text.split(/[_-]/).filter((word) => word.length >= 8 && /[a-z]/.test(word) && /[A-Z]/.test(word));
  return words.reduce((sum, word) => sum + (word.match(CHANGE)?.length ?? 0), 0) > CHANGES_OF_WORDS;
}
