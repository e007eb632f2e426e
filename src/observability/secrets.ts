/** Keeps secrets out of log lines, wherever a client, or a library's error, has put them. */

/** Characters in a row that a text must have in common with a secret to give it away. */
const TELLING = 12;
/** Where a text is looked at: every so many characters, so that each telling piece has a whole seed in it. */
const STRIDE = 6;
const SEED = TELLING - STRIDE + 1;

/** A user's key (users/api-key.ts), also one that was mistyped, cut off or written in capitals. */
const KEY_SHAPE = /pfx[_-]?[0-9a-f]{8,}[A-Za-z0-9_-]*/gi;
/** What may be the secret of a key alone: 43 characters of base64url, or nearly. */
const SECRET_SHAPE = /[A-Za-z0-9_-]{40,}/g;
/** Changes between capitals, small letters and digits within words; the capitals that begin a word do not count. */
const CHANGE = /[a-z](?=\d|[A-Z](?![a-z][a-z]))|\d(?=[A-Za-z])|[A-Z](?=\d)/g;
/** So few changes have names made of words; of secrets of 43 random characters 1 in 16,000 does. */
const CHANGES_OF_WORDS = 1;

const CENSOR = "[redacted]";

type Span = readonly [from: number, to: number];

/** Whether a text has the shape of a user's key, near misses included. */
export function looksLikeKey(text: string): boolean {
  return text.search(KEY_SHAPE) >= 0;
}

/** Finds secrets in texts: known ones, and what has the shape of a user's key or of its secret. */
export class SecretFilter {
  /** Where each seed occurs, in lower case. */
  readonly #seeds = new Map<string, { readonly secret: string; readonly at: number }[]>();

  /** `secrets`: such as the admin key. Ones of less than 12 characters cannot be told from words, and are not looked for. */
  constructor(secrets: readonly string[]) {
    for (const given of secrets) {
      if (given.length < TELLING) continue;
      // As it is, and as it stands in JSON.
      for (const form of new Set([given, JSON.stringify(given).slice(1, -1)])) this.#add(form.toLowerCase());
    }
  }

  /** The text without its secrets. A part of a known secret that is long enough to help guess the rest counts as one, in capitals too. */
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

  /** Whether there is no secret in the text. */
  passes(text: string): boolean {
    return this.clean(text) === text;
  }

  #add(secret: string): void {
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

/** For what has no secrets of its own, such as tests. */
export const NO_SECRETS = new SecretFilter([]);

function matches(text: string, shape: RegExp, test: (found: string) => boolean = () => true): Span[] {
  return [...text.matchAll(shape)]
    .filter(([found]) => test(found))
    .map(({ 0: found, index }): Span => [index, index + found.length]);
}

/** Whether it is more likely random than a name: a word of it has capitals, small letters and digits all mixed. */
function isRandom(text: string): boolean {
  const words = text.split(/[_-]/).filter((word) => word.length >= 8 && /[a-z]/.test(word) && /[A-Z]/.test(word));
  return words.reduce((sum, word) => sum + (word.match(CHANGE)?.length ?? 0), 0) > CHANGES_OF_WORDS;
}
