import t from "tap";
import { Utf8Stream } from "../../src/text/detokenizer.ts";
import { Stops } from "../../src/text/stop-strings.ts";
import { TextStream } from "../../src/text/text-stream.ts";
import { loadTokenizer } from "../../src/text/tokenizer.ts";
import { byteTokenizer, randomNumbers } from "./support.ts";

t.test("pieces together are the whole, and hold whole characters", async (t) => {
  const random = randomNumbers(2);
  const demo = await loadTokenizer("models/demo", 4096);
  // Bytes that make well-formed, cut, overlong, surrogate and too large sequences likely.
  const bytes = [
    0x41, 0x80, 0xbf, 0xc0, 0xc2, 0xc3, 0xa9, 0xe0, 0x9f, 0xa0, 0xe2, 0x82, 0xac, 0xed, 0xef, 0xbb, 0xbf, 0xf0, 0x90,
    0x9f, 0x98, 0x81, 0xf4, 0xf5, 0xff, 0,
  ];
  const raw = byteTokenizer();
  for (let round = 0; round < 6000; round++) {
    const tokenizer = round % 2 === 0 ? demo : raw;
    const length = Math.floor(random() * 30);
    const ids = Array.from({ length }, () =>
      tokenizer === demo
        ? Math.floor(random() * (random() < 0.5 ? 256 : 4096))
        : (bytes[Math.floor(random() * bytes.length)] ?? 0),
    );
    const utf8 = new Utf8Stream();
    const decoded = [...ids.map((id) => utf8.push(tokenizer.bytesOf(id))), utf8.end()];
    if (decoded.join("") !== tokenizer.decode(ids)) t.equal(decoded.join(""), tokenizer.decode(ids), ids.join());
    const stream = new TextStream(tokenizer, new Stops([]));
    const pieces = [...ids.map((id) => stream.push(id).text), stream.end()];
    if (pieces.join() !== decoded.join()) t.same(pieces, decoded, ids.join());
    if (pieces.some((piece) => /[\ud800-\udbff]$|^[\udc00-\udfff]/.test(piece))) t.fail("half a character");
  }
  t.pass("6000 texts");
});

t.test("a character comes with its last byte", async (t) => {
  const stream = new TextStream(byteTokenizer(), new Stops([]));
  t.same(
    [0xf0, 0x9f, 0x98, 0x80, 0xc3, 0xa9].map((byte) => stream.push(byte).text),
    ["", "", "", "\u{1f600}", "", "\u00e9"],
  );
  t.same([0xe2, 0x82, 0x41].map((byte) => stream.push(byte).text).join(""), "\ufffdA");
  t.equal(stream.push(0xe2).text, "");
  t.equal(stream.push(256).text, "", "a special token neither adds nor breaks");
  t.equal(stream.push(0x82).text + stream.push(0xac).text, "\u20ac");
  t.equal(stream.push(0xe2).text, "");
  t.equal(stream.end(), "\ufffd");
  const bom = new TextStream(byteTokenizer(), new Stops([]));
  t.equal([0xef, 0xbb, 0xbf, 0x41].map((byte) => bom.push(byte).text).join("") + bom.end(), "\ufeffA");
});
