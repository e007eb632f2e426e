import { ModelLoadError } from "../errors.ts";
import { byteCharacters } from "./byte-alphabet.ts";
import { flag, list, notHonoured, object, onlyKeys, text, tokenId, type Json } from "./json-values.ts";

/** Transforms a text before it is split. */
export type Normalizer = (text: string) => string;

/** Token ids added before and after a text's own. */
export interface SurroundingIds {
  readonly before: readonly number[];
  readonly after: readonly number[];
}

export const NOTHING_AROUND: SurroundingIds = { before: [], after: [] };

/**
 * GPT-2's split into words, as HF's ByteLevel does it. As a Split step, the library runs it with Unicode's white space.
 * Inside its ByteLevel it would run with JavaScript's `\s`, which includes U+FEFF and lacks U+0085: other ids than
 * HF's.
 */
const WORDS = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

/**
 * Cuts a text into chunks of about `length` characters, each of which splits into the same words as within the whole.
 */
export function* chunksOf(text: string, length: number): Generator<string, void> {
  let from = 0;
  for (let at = length; at < text.length; at++) {
    if (!endsWord(text.charCodeAt(at - 1), text.charCodeAt(at))) continue;
    yield text.slice(from, at);
    from = at;
    at += length - 1;
  }
  yield text.slice(from);
}

const [BLANK, APOSTROPHE] = [0x20, 0x27];

/**
 * Whether WORDS always ends a word between two UTF-16 units. A word never continues from one kind of character to
 * another, except from a blank or an apostrophe. Never true after white space, which regular expression engines define
 * differently.
 */
function endsWord(before: number, after: number): boolean {
  const [left, right] = [kindOf(before), kindOf(after)];
  if (left === Kind.White) return false;
  if (after === BLANK) return true;
  return left !== right && before !== APOSTROPHE && left !== Kind.Half && right !== Kind.White && right !== Kind.Half;
}

const Kind = { Unknown: 0, White: 1, Half: 2, Letter: 3, Number: 4, Other: 5 } as const;
/** Kind of every UTF-16 unit, filled on demand. */
const kinds = new Uint8Array(2 ** 16);

function kindOf(unit: number): number {
  const known = kinds[unit]!;
  if (known !== Kind.Unknown) return known;
  const text = String.fromCharCode(unit);
  const is = (pattern: RegExp): boolean => pattern.test(text);
  return (kinds[unit] = is(/[\s\p{White_Space}]/u)
    ? Kind.White
    : is(/\p{Surrogate}/u)
      ? Kind.Half
      : is(/\p{L}/u)
        ? Kind.Letter
        : is(/\p{N}/u)
          ? Kind.Number
          : Kind.Other);
}

/**
 * Accepts only normalizers that give HF's result for every text. NFD, NFKC and NFKD do not: HF's tables are from an
 * older Unicode. Lowercase is that of each character by itself, as in HF, so there is no final sigma. Throws
 * ModelLoadError.
 */
export function readNormalizer(stored: unknown, path: string): Normalizer | null {
  if (stored === null || stored === undefined) return null;
  const json = object(stored, path);
  const at = `${path}.`;
  switch (json["type"]) {
    case "NFC":
      onlyKeys(json, at, ["type"]);
      return (text) => text.normalize("NFC");
    case "Lowercase":
      onlyKeys(json, at, ["type"]);
      // Only a capital sigma depends on its neighbours. Character by character, 1 MiB would take 20 times as long.
      return (text) => text.replaceAll("Σ", "σ").toLowerCase();
    case "Prepend": {
      onlyKeys(json, at, ["type", "prepend"]);
      const start = text(json["prepend"], `${at}prepend`);
      return (text) => (text === "" ? "" : start + text);
    }
    case "Replace": {
      onlyKeys(json, at, ["type", "pattern", "content"]);
      const pattern = object(json["pattern"], `${at}pattern`);
      onlyKeys(pattern, `${at}pattern.`, ["String"]);
      const from = text(pattern["String"], `${at}pattern.String`);
      const to = text(json["content"], `${at}content`);
      return (text) => text.replaceAll(from, () => to);
    }
    case "Strip": {
      onlyKeys(json, at, ["type", "strip_left", "strip_right"]);
      const left = flag(json["strip_left"], `${at}strip_left`, false) ? /^\p{White_Space}+/u : null;
      const right = flag(json["strip_right"], `${at}strip_right`, false)
        ? /(?<!\p{White_Space})\p{White_Space}+$/u
        : null;
      return (text) => [left, right].reduce((rest, end) => (end === null ? rest : rest.replace(end, "")), text);
    }
    case "Sequence": {
      onlyKeys(json, at, ["type", "normalizers"]);
      const steps = list(json["normalizers"], `${at}normalizers`).map((step, i) =>
        readNormalizer(step, `${at}normalizers[${i}]`),
      );
      return (text) => steps.reduce((rest, step) => step?.(rest) ?? rest, text);
    }
    default:
      throw notHonoured(`${at}type`, json["type"]);
  }
}

/** `json` is for the library. With `addPrefixSpace`, a text that does not begin with a blank gets one. */
export interface PreTokenizer {
  readonly json: object;
  readonly addPrefixSpace: boolean;
  /** Whether texts are split into GPT-2's words. */
  readonly inWords: boolean;
}

/** ByteLevel, optionally after Digits. Throws ModelLoadError. */
export function readPreTokenizer(stored: unknown, path: string): PreTokenizer {
  const json = object(stored, path);
  const sequence = json["type"] === "Sequence";
  if (sequence) onlyKeys(json, `${path}.`, ["type", "pretokenizers"]);
  const parts = sequence ? list(json["pretokenizers"], `${path}.pretokenizers`) : [json];
  const steps: object[] = [];
  let [addPrefixSpace, inWords] = [false, false];
  for (const [i, part] of parts.entries()) {
    const at = sequence ? `${path}.pretokenizers[${i}].` : `${path}.`;
    const step = object(part, at.slice(0, -1));
    const last = i === parts.length - 1;
    if (step["type"] === "Digits" && !last) {
      onlyKeys(step, at, ["type", "individual_digits"]);
      steps.push(
        split(
          flag(step["individual_digits"], `${at}individual_digits`, false) ? String.raw`\p{N}` : String.raw`\p{N}+`,
        ),
      );
    } else if (step["type"] === "ByteLevel" && last) {
      onlyKeys(step, at, ["type", "add_prefix_space", "trim_offsets", "use_regex"]);
      addPrefixSpace = flag(step["add_prefix_space"], `${at}add_prefix_space`, true);
      // Each number would get its own blank.
      if (addPrefixSpace && i > 0) throw notHonoured(`${at}add_prefix_space`, true);
      inWords = flag(step["use_regex"], `${at}use_regex`, true);
      if (inWords) steps.push(split(WORDS));
      steps.push({ type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false });
    } else {
      throw notHonoured(`${at}type`, step["type"]);
    }
  }
  if (steps.length === 0) throw notHonoured(`${path}.pretokenizers`, []);
  return { json: { type: "Sequence", pretokenizers: steps }, addPrefixSpace, inWords };
}

const split = (regex: string): object => ({
  type: "Split",
  pattern: { Regex: regex },
  behavior: "Isolated",
  invert: false,
});

/** Throws ModelLoadError. */
export function readPostProcessor(stored: unknown, path: string): SurroundingIds {
  if (stored === null || stored === undefined) return NOTHING_AROUND;
  const json = object(stored, path);
  const at = `${path}.`;
  switch (json["type"]) {
    case "ByteLevel":
      onlyKeys(json, at, ["type", "add_prefix_space", "trim_offsets", "use_regex"]);
      return NOTHING_AROUND;
    case "RobertaProcessing":
    case "BertProcessing": {
      onlyKeys(json, at, ["type", "sep", "cls", "trim_offsets", "add_prefix_space"]);
      const [before, after] = ["cls", "sep"].map((key) => {
        const [token, id] = list(json[key], `${at}${key}`);
        return [tokenId(id, text(token, `${at}${key}[0]`))];
      });
      return { before: before!, after: after! };
    }
    case "TemplateProcessing":
      return template(json, at);
    case "Sequence": {
      onlyKeys(json, at, ["type", "processors"]);
      let around = NOTHING_AROUND;
      for (const [i, part] of list(json["processors"], `${at}processors`).entries()) {
        const added = readPostProcessor(part, `${at}processors[${i}]`);
        if (added === NOTHING_AROUND) continue;
        // HF's second processor treats ids added by the first as sequences of their own.
        if (around !== NOTHING_AROUND) throw notHonoured(`${at}processors[${i}].type`, object(part, "")["type"]);
        around = added;
      }
      return around;
    }
    default:
      throw notHonoured(`${at}type`, json["type"]);
  }
}

/** Reads the single-sequence template; the one for pairs is unused. */
function template(json: Json, at: string): SurroundingIds {
  onlyKeys(json, at, ["type", "single", "pair", "special_tokens"]);
  const tokens = object(json["special_tokens"], `${at}special_tokens`);
  const before: number[] = [];
  const after: number[] = [];
  let side = before;
  for (const [i, stored] of list(json["single"], `${at}single`).entries()) {
    const part = object(stored, `${at}single[${i}]`);
    onlyKeys(part, `${at}single[${i}].`, ["Sequence", "SpecialToken"]);
    if (part["Sequence"] !== undefined) {
      if (side === after || object(part["Sequence"], `${at}single[${i}].Sequence`)["id"] !== "A")
        throw notHonoured(`${at}single[${i}]`, part);
      side = after;
    } else {
      const name = text(
        object(part["SpecialToken"], `${at}single[${i}].SpecialToken`)["id"],
        `${at}single[${i}].SpecialToken.id`,
      );
      const where = `${at}special_tokens.${name}`;
      side.push(...list(object(tokens[name], where)["ids"], `${where}.ids`).map((id) => tokenId(id, name)));
    }
  }
  if (side === before) throw notHonoured(`${at}single`, json["single"]);
  return { before, after };
}

/** Throws ModelLoadError. */
export function checkDecoder(stored: unknown, path: string): void {
  const json = object(stored, path);
  if (json["type"] === "Sequence") {
    const parts = list(json["decoders"], `${path}.decoders`);
    if (parts.length !== 1) throw notHonoured(`${path}.decoders`, parts);
    checkDecoder(parts[0], `${path}.decoders[0]`);
  } else if (json["type"] !== "ByteLevel") {
    throw notHonoured(`${path}.type`, json["type"]);
  }
}

export interface BpeModel {
  /** Model of the tokenizer.json object, for the library. */
  readonly json: object;
  readonly vocab: ReadonlyMap<string, number>;
  readonly ignoreMerges: boolean;
}

/**
 * Reads a BPE model whose vocabulary has every byte. No text then has an unknown token, so unk_token and fuse_unk have
 * no effect. Files of older versions have no type. Throws ModelLoadError.
 * @param at path prefix of its keys
 */
export function readModel(stored: unknown, at: string): BpeModel {
  const json = object(stored, at.slice(0, -1));
  const { type = "BPE", vocab: storedVocab, dropout, ignore_merges } = json;
  if (type !== "BPE") throw notHonoured(`${at}type`, type);
  onlyKeys(json, at, [
    "type",
    "dropout",
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "fuse_unk",
    "byte_fallback",
    "ignore_merges",
    "vocab",
    "merges",
  ]);
  if (dropout !== undefined && dropout !== null && dropout !== 0) throw notHonoured(`${at}dropout`, dropout);
  for (const key of ["continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"])
    if (json[key]) throw notHonoured(`${at}${key}`, json[key]);
  const vocab = new Map<string, number>();
  const owners = new Map<number, string>();
  for (const [token, stored] of Object.entries(object(storedVocab, `${at}vocab`))) {
    const id = tokenId(stored, token);
    const owner = owners.get(id);
    if (owner !== undefined)
      throw new ModelLoadError(
        "model_unsupported",
        `${at}vocab gives ${JSON.stringify(owner)} and ${JSON.stringify(token)} the same id, ${id}`,
      );
    owners.set(id, token);
    vocab.set(token, id);
  }
  const missing = byteCharacters().findIndex((character) => !vocab.has(character));
  if (missing !== -1)
    throw new ModelLoadError(
      "model_unsupported",
      `the vocabulary has no token for byte ${missing}: some texts could not be encoded`,
    );
  const merges = list(json["merges"], `${at}merges`).map((merge, i) => mergeOf(merge, `${at}merges[${i}]`, vocab));
  const ignoreMerges = flag(ignore_merges, `${at}ignore_merges`, false);
  return {
    json: { type: "BPE", ignore_merges: ignoreMerges, vocab: Object.fromEntries(vocab), merges },
    vocab,
    ignoreMerges,
  };
}

/** Reads `"a b"` or `["a", "b"]`; both parts and their concatenation must be tokens. */
function mergeOf(stored: unknown, path: string, vocab: ReadonlyMap<string, number>): readonly string[] {
  const pair = typeof stored === "string" ? stored.split(" ") : list(stored, path).map((part) => text(part, path));
  const tokens = [...pair, pair.join("")];
  const unknown = tokens.find((token) => !vocab.has(token));
  if (pair.length !== 2 || unknown !== undefined)
    throw new ModelLoadError(
      "model_invalid",
      `${path} is ${JSON.stringify(stored)}, which is not a pair of tokens whose concatenation is a token`,
    );
  return pair;
}
