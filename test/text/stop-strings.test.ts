import { readFile } from "node:fs/promises";
import t from "tap";
import { seenByStops, StopMatcher, StopProgress, Stops } from "../../src/text/stop-strings.ts";
import { TextStream } from "../../src/text/text-stream.ts";
import { loadTokenizer } from "../../src/text/tokenizer.ts";
import { byteTokenizer, randomNumbers } from "./support.ts";

const encode = (text: string): Uint8Array => new TextEncoder().encode(text);

interface Run {
  readonly pieces: readonly string[];
  /** Index of the piece that completed a stop string, or -1. */
  readonly stoppedAt: number;
}

/** Feeds pieces until a stop; the last piece of the result is what `end` gives. */
function run(stops: readonly string[], pieces: readonly Uint8Array[]): Run {
  const matcher = new StopMatcher(new Stops(stops));
  const out: string[] = [];
  for (const [at, piece] of pieces.entries()) {
    const { emit, stopped } = matcher.push(piece);
    out.push(Buffer.from(emit).toString("latin1"));
    if (stopped) return { pieces: out, stoppedAt: at };
  }
  out.push(Buffer.from(matcher.end()).toString("latin1"));
  return { pieces: out, stoppedAt: -1 };
}

/** The same by trying every end position and every stop string. */
function oracle(stops: readonly string[], text: string): { text: string; end: number } {
  for (let end = 1; end <= text.length; end++) {
    const lengths = stops.filter((stop) => stop !== "" && text.slice(0, end).endsWith(stop)).map((stop) => stop.length);
    if (lengths.length > 0) return { text: text.slice(0, end - Math.max(...lengths)), end };
  }
  return { text, end: -1 };
}

t.test("agrees with brute force for any text, stop strings and division into tokens", async (t) => {
  const random = randomNumbers(3);
  const word = (letters: string, longest: number): string =>
    Array.from(
      { length: Math.floor(random() * (longest + 1)) },
      () => letters[Math.floor(random() * letters.length)],
    ).join("");
  for (let round = 0; round < 20_000; round++) {
    const letters = round % 3 === 0 ? "ab" : "abc";
    const text = word(letters, 40);
    const stops = Array.from({ length: Math.floor(random() * 5) }, () => word(letters, 6));
    const pieces: Uint8Array[] = [];
    for (let at = 0; at < text.length; ) {
      const length = Math.floor(random() * 5);
      pieces.push(encode(text.slice(at, at + length)));
      at += length;
    }
    const expected = oracle(stops, text);
    const actual = run(stops, pieces);
    const fed = pieces.slice(0, actual.stoppedAt + 1).reduce((sum, piece) => sum + piece.length, 0);
    const inToken =
      actual.stoppedAt === -1
        ? expected.end === -1
        : expected.end <= fed && expected.end > fed - (pieces[actual.stoppedAt]?.length ?? 0);
    // Held back is exactly what could still become a stop string: the longest end of the text that begins one.
    let seen = "";
    let emitted = "";
    const tight = pieces.slice(0, actual.stoppedAt === -1 ? pieces.length : actual.stoppedAt).every((piece, i) => {
      seen += Buffer.from(piece).toString("latin1");
      emitted += actual.pieces[i] ?? "";
      const held = seen.slice(emitted.length);
      const longest = Math.max(
        0,
        ...stops.flatMap((stop) => Array.from(stop, (_, n) => n).filter((n) => seen.endsWith(stop.slice(0, n)))),
      );
      return seen.startsWith(emitted) && held.length === longest;
    });
    if (actual.pieces.join("") !== expected.text || !inToken || !tight) {
      t.same(
        actual,
        expected,
        JSON.stringify({ text, stops, pieces: pieces.map((piece) => Buffer.from(piece).toString()) }),
      );
      return;
    }
  }
  t.pass("20,000 texts");
});

t.test("nothing of a stop string is let out", async (t) => {
  const pieces = ["ab", "c\n", "\nUs", "er", ":", " x"].map(encode);
  t.same(run(["\n\nUser:"], pieces), { pieces: ["ab", "c", "", "", ""], stoppedAt: 4 });
  t.same(run(["\n\nUser!"], pieces), { pieces: ["ab", "c", "", "", "\n\nUser:", " x", ""], stoppedAt: -1 });
  t.same(run(["b", "abc"], [encode("xabcx")]), { pieces: ["xa"], stoppedAt: 0 }, "the first to be complete");
  t.same(
    run(["bc", "abc"], [encode("xabcx")]),
    { pieces: ["x"], stoppedAt: 0 },
    "the longest of those that end together",
  );
  t.same(run([""], [encode("x")]), { pieces: ["x", ""], stoppedAt: -1 });
  t.same(run(["aab"], ["a", "a", "a", "b"].map(encode)), { pieces: ["", "", "a", ""], stoppedAt: 3 });
  const matcher = new StopMatcher(new Stops(["b"]));
  t.equal(matcher.push(encode("ab")).stopped, true);
  t.same([matcher.push(encode("c")).emit.length, matcher.end().length], [0, 0], "nothing comes after a stop");
});

t.test("linear time on hostile stop strings", async (t) => {
  const stops = Array.from({ length: 16 }, (_, i) => "\u2026".repeat(255) + String.fromCodePoint(0x61 + i));
  const stream = new TextStream(byteTokenizer(), new Stops(stops));
  const bytes = encode("\u2026".repeat(20_000));
  const start = performance.now();
  let text = "";
  for (const byte of bytes) text += stream.push(byte).text;
  text += stream.end();
  t.equal(text.length, 20_000);
  t.ok(performance.now() - start < 2000, `${(performance.now() - start).toFixed(0)} ms for ${bytes.length} tokens`);
});

t.test("text of whole characters around stops", async (t) => {
  const feed = (stops: string[], bytes: Iterable<number>): string[] => {
    const stream = new TextStream(byteTokenizer(), new Stops(stops));
    const out: string[] = [];
    for (const byte of bytes) {
      const { text, stopped } = stream.push(byte);
      out.push(text);
      if (stopped) return [...out, "STOP", stream.end()];
    }
    return [...out, stream.end()];
  };
  t.same(feed(["\u00e9"], encode("a\u00e9b")), ["a", "", "", "STOP", ""]);
  t.same(feed(["\u00e8"], encode("a\u00e9")), ["a", "", "\u00e9", ""], "held for its first byte");
  t.same(feed(["A"], [0xe2, 0x82, 0x41]), ["", "", "\ufffd", "STOP", ""], "a cut character before the stop");
  t.same(feed(["A"], [0xe2, 0x82]), ["", "", "\ufffd"]);
  t.same(feed([], [0xe2, 256, 0x82, 0xac]), ["", "", "", "\u20ac", ""]);
});

t.test("a special token is seen by stop strings under its name, and no text", async (t) => {
  const END = 256;
  const feed = (stops: Stops, ids: Iterable<number>): [string, number] => {
    const stream = new TextStream(byteTokenizer(), stops);
    let [text, taken] = ["", 0];
    for (const id of ids) {
      const piece = stream.push(id);
      text += piece.text;
      taken++;
      if (piece.stopped) return [text, taken];
    }
    return [text + stream.end(), taken];
  };
  const ids = [...encode("ab"), END, ...encode("cd"), END, ...encode("ef")];
  t.same(feed(new Stops(["<|end|>"]), ids), ["ab", 3]);
  t.same(feed(new Stops(["b<|end|>c"]), ids), ["a", 4], "among other text");
  t.same(feed(new Stops(["d<|end|>", "zz"]), ids), ["abc", 6], "held back as text is, but never shown");
  t.same(feed(new Stops(["b<|end|>d", "<|end|>f"]), ids), ["abcdef", 8], "what was held back comes without the name");
  t.same(feed(new Stops(["end"]), ids), ["ab", 3], "a part of the name, as in transformers");
  t.same(feed(new Stops(["<|end|>"]), encode("a<|end|>b")), ["a", 8], "the same characters as text");
  t.same(feed(new Stops([], [END]), ids), ["ab", 3]);
  t.same(feed(new Stops(["dx"], [...encode("ec")]), ids), ["ab", 4], "an id");
  t.same(feed(new Stops(["dx"], [...encode("e")]), [...encode("ade")]), ["ad", 3], "what is held back comes before it");
  t.same(feed(new Stops([], [0x41]), [0xe2, 0x82, 0x41]), ["\ufffd", 3], "and what is left of a character");
});

t.test("with the demo tokenizer: any ids, any stop taken from their text", async (t) => {
  const tokenizer = await loadTokenizer("models/demo", 4096);
  const random = randomNumbers(4);
  let tried = 0;
  for (let round = 0; round < 2000; round++) {
    const ids = Array.from({ length: 1 + Math.floor(random() * 20) }, () => Math.floor(random() * 4096));
    const whole = tokenizer.decode(ids);
    const at = Math.floor(random() * whole.length);
    const stop = whole.slice(at, at + 1 + Math.floor(random() * 6));
    // A replacement character stands for broken bytes, a lone surrogate for half a character: neither can be a stop string.
    if (/[\ufffd\ud800-\udfff]/.test(stop) || stop === "") continue;
    tried++;
    const stream = new TextStream(tokenizer, new Stops([stop]));
    let text = "";
    let used = 0;
    for (const id of ids) {
      const piece = stream.push(id);
      text += piece.text;
      used++;
      if (piece.stopped) break;
    }
    text += stream.end();
    const before = tokenizer.decode(ids.slice(0, used - 1));
    if (text !== whole.slice(0, whole.indexOf(stop)) || before.includes(stop))
      t.fail(JSON.stringify({ ids, stop, text }));
  }
  t.ok(tried > 1000, `${tried} stop strings`);
});

t.test("ends where transformers' StopStringCriteria does, but for the prompt", async (t) => {
  interface Case {
    readonly token_ids: readonly number[];
    readonly prompt_ids: readonly number[];
    readonly stop: readonly string[];
    readonly stops_after: number | null;
  }
  const { cases } = JSON.parse(await readFile("test/golden/stop-strings.json", "utf8")) as { cases: Case[] };
  const tokenizer = await loadTokenizer("models/demo", 4096);
  for (const { token_ids, prompt_ids, stop, stops_after } of cases) {
    const stream = new TextStream(tokenizer, new Stops(stop));
    const index = token_ids.findIndex((id) => stream.push(id).stopped);
    const seen = (ids: readonly number[]): string =>
      Buffer.concat(ids.map((id) => seenByStops(tokenizer, id))).toString();
    const generated = seen(token_ids);
    const inGenerated = stop.some((text) => generated.includes(text));
    // transformers also matches over prompt and generated text.
    const crosses = !inGenerated && stop.some((text) => seen([...prompt_ids, ...token_ids]).includes(text));
    t.equal(index === -1 ? null : index + 1, crosses ? null : stops_after, JSON.stringify({ stop, generated }));
  }
});

t.test("what forks of a sequence share stops each of them where a matcher of its own does", async (t) => {
  const random = randomNumbers(13);
  const tokens = ["a", "b", "ab", "ba", "", "aba"].map(encode);
  const strings = new Stops(["aab", "bab", "abba"], [5]);
  interface Branch {
    readonly progress: StopProgress;
    readonly ids: readonly number[];
  }
  let branches: Branch[] = [{ progress: new StopProgress(strings, (id) => tokens[id]!), ids: [] }];
  let stopped = 0;
  for (let step = 0; step < 12; step++) {
    const next: Branch[] = [];
    for (const { progress, ids } of branches) {
      for (const id of tokens.keys()) {
        const after = progress.after(id);
        const matcher = new StopMatcher(strings);
        const seen = [...ids, id].map((one) => matcher.push(tokens[one]!).stopped || one === 5);
        if ((after === null) !== seen.at(-1)) return t.fail(`${String([...ids, id])}: ${String(seen.at(-1))}`);
        if (after === null) stopped++;
        else next.push({ progress: after, ids: [...ids, id] });
      }
    }
    branches = next
      .map((branch) => ({ branch, key: random() }))
      .sort((a, b) => a.key - b.key)
      .slice(0, 60)
      .map(({ branch }) => branch);
  }
  t.ok(stopped > 500, `${stopped} sequences stopped`);
});
