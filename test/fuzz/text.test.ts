/** Text from bytes as tokens bring them: characters of any kind and what is none, cut anywhere, with stop strings anywhere. */
import fc from "fast-check";
import t from "tap";
import { Utf8Stream } from "../../src/text/detokenizer.ts";
import { Stops } from "../../src/text/stop-strings.ts";
import { TextStream } from "../../src/text/text-stream.ts";
import type { Tokenizer } from "../../src/text/tokenizer.ts";
import { byteTokenizer } from "../text/support.ts";
import { holds } from "./support/runs.ts";

/** Ids are indices into `tokens`: any division of the text into tokens. */
const tokenizerOf = (tokens: readonly Uint8Array[]): Tokenizer => ({
  ...byteTokenizer(),
  vocabSize: tokens.length,
  bytesOf: (id) => tokens[id]!,
});
const decode = (bytes: Uint8Array): string => new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);

// Few different characters, so that stop strings occur; of one to four bytes, some with a beginning or an end in common.
const character = fc.constantFrom(
  "a",
  "b",
  "\n",
  "\u00e9",
  "\u00e8",
  "\u20ac",
  "\u{1f600}",
  "\u{1f601}",
  "\ufeff",
  "\u0000",
);
const words = fc.array(character, { maxLength: 30 }).map((all) => Buffer.from(all.join("")));
const broken = fc
  .array(
    fc.oneof(
      fc.constantFrom(0x41, 0x80, 0xbf, 0xc0, 0xc3, 0xe0, 0xe2, 0xed, 0xa0, 0xf0, 0x9f, 0xf4, 0xff),
      fc.nat({ max: 255 }),
    ),
    { maxLength: 30 },
  )
  .map((all) => Buffer.from(all));
const stops = fc.array(
  fc.array(character, { minLength: 1, maxLength: 4 }).map((all) => all.join("")),
  { maxLength: 4 },
);

const divided = (bytes: fc.Arbitrary<Buffer>): fc.Arbitrary<Uint8Array[]> =>
  fc.tuple(bytes, fc.array(fc.integer({ min: 0, max: 5 }), { minLength: 40, maxLength: 40 })).map(([all, lengths]) => {
    const tokens: Uint8Array[] = [];
    for (let at = 0, i = 0; at < all.length; at += lengths[i % lengths.length]! || 1, i++)
      tokens.push(all.subarray(at, at + (lengths[i % lengths.length]! || 1)));
    return tokens;
  });

t.test("pieces of bytes make the text that the whole makes, characters whole", async (t) => {
  await holds(
    t,
    300,
    fc.property(divided(fc.oneof(words, broken)), (tokens) => {
      const stream = new Utf8Stream();
      const pieces = [...tokens.map((token) => stream.push(token)), stream.end()];
      return (
        pieces.join("") === decode(Buffer.concat(tokens)) &&
        pieces.every((piece) => !/^[\udc00-\udfff]|[\ud800-\udbff]$/.test(piece))
      );
    }),
  );
});

/** Text before the earliest end of a stop string, without the longest one that ends there; found by trying all. */
function cutBefore(bytes: Buffer, strings: readonly string[]): { text: string; end: number } {
  const patterns = strings.map((stop) => Buffer.from(stop));
  for (let end = 1; end <= bytes.length; end++) {
    const lengths = patterns
      .filter((pattern) => end >= pattern.length && bytes.subarray(end - pattern.length, end).equals(pattern))
      .map(({ length }) => length);
    if (lengths.length > 0) return { text: decode(bytes.subarray(0, end - Math.max(...lengths))), end };
  }
  return { text: decode(bytes), end: Infinity };
}

t.test("text ends before the first stop string, whatever the tokens are", async (t) => {
  await holds(
    t,
    500,
    fc.property(
      divided(fc.oneof({ weight: 3, arbitrary: words }, { weight: 1, arbitrary: broken })),
      stops,
      (tokens, strings) => {
        const stream = new TextStream(tokenizerOf(tokens), new Stops(strings));
        const expected = cutBefore(Buffer.concat(tokens), strings);
        let [text, fed, stopped] = ["", 0, false];
        for (let id = 0; id < tokens.length && !stopped; id++) {
          const piece = stream.push(id);
          text += piece.text;
          stopped = piece.stopped;
          fed += tokens[id]!.length;
          if (stopped !== expected.end <= fed) return false;
        }
        return (stopped ? text : text + stream.end()) === expected.text;
      },
    ),
  );
});
