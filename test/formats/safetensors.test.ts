import { open, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import {
  decodeFloats,
  decodeFloatsInto,
  parseSafetensorsHeader,
  readSafetensorsHeader,
} from "../../src/formats/safetensors.ts";
import { JsonDefect, parseStrictJson } from "../../src/formats/strict-json.ts";
import { f32Bytes, rawSafetensors, safetensors } from "../support/safetensors.ts";

// Defective headers are in test/prefixes/defects.ts: the uploads are where they come from.

const LIMITS = { maxHeaderBytes: 1 << 20 };

t.test("gives every tensor's place in the file", (t) => {
  const file = safetensors(
    {
      a: { dtype: "F32", shape: [2, 1], data: f32Bytes([1, 2]) },
      b: { dtype: "BF16", shape: [3], data: new Uint8Array(6) },
      empty: { dtype: "I64", shape: [0, 9], data: new Uint8Array(0) },
    },
    { format: "pt" },
  );
  const { tensors, metadata } = parseSafetensorsHeader(file, file.length, LIMITS);
  t.same([...metadata], [["format", "pt"]]);
  t.same([...tensors.keys()], ["a", "b", "empty"]);
  const { start, end, ...rest } = tensors.get("a")!;
  t.same(rest, { dtype: "F32", shape: [2, 1] });
  t.same(decodeFloats("F32", file.subarray(start, end)), Float32Array.of(1, 2));
  t.equal(tensors.get("b")!.end, file.length);
  t.end();
});

t.test("names are only names", (t) => {
  const entry = { dtype: "U8", shape: [1], data_offsets: [0, 1] };
  const file = rawSafetensors(`{"__proto__":${JSON.stringify(entry)}}`, new Uint8Array(1));
  const { tensors } = parseSafetensorsHeader(file, file.length, LIMITS);
  t.same([...tensors.keys()], ["__proto__"]);
  t.equal(({} as { dtype?: string }).dtype, undefined);
  t.end();
});

t.test("accepts padding and tensors out of order, as the format does", (t) => {
  const a = { dtype: "U8", shape: [1], data_offsets: [1, 2] };
  const b = { dtype: "U8", shape: [], data_offsets: [0, 1] };
  const file = rawSafetensors(`${JSON.stringify({ a, b })}     `, new Uint8Array(2));
  t.equal(parseSafetensorsHeader(file, file.length, LIMITS).tensors.size, 2);
  t.end();
});

t.test("reads the header of an open file, and no more", async (t) => {
  const path = join(t.testdir(), "x.safetensors");
  const file = safetensors({ a: { dtype: "F16", shape: [4], data: new Uint8Array(8) } });
  await writeFile(path, file);
  const handle = await open(path);
  t.teardown(() => handle.close());
  t.same((await readSafetensorsHeader(handle)).tensors, parseSafetensorsHeader(file, file.length, LIMITS).tensors);
  for (const [bytes, message] of [
    [new Uint8Array(0), /empty/],
    [new Uint8Array(5), /shorter than/],
    [rawSafetensors("{}", new Uint8Array(0), 1n << 40n), /at most 100000000/],
    [file.subarray(0, file.length - 1), /beyond the end/],
  ] as const) {
    await writeFile(path, bytes);
    const broken = await open(path);
    await t.rejects(readSafetensorsHeader(broken), { code: "safetensors_invalid", message });
    await broken.close();
  }
});

t.test("a header's bytes may be fewer than the file's, but not than the header's", (t) => {
  const file = safetensors({ a: { dtype: "F16", shape: [4], data: new Uint8Array(8) } });
  t.equal(parseSafetensorsHeader(file.subarray(0, file.length - 8), file.length, LIMITS).tensors.size, 1);
  t.throws(() => parseSafetensorsHeader(file.subarray(0, 20), file.length, LIMITS), {
    code: "safetensors_invalid",
    message: /cut short/,
  });
  t.end();
});

t.test("every one of the 65,536 halves and bfloats is decoded exactly", (t) => {
  const every = new Uint8Array(Uint16Array.from({ length: 65_536 }, (_, i) => i).buffer);
  const [halves, bfloats] = [decodeFloats("F16", every), decodeFloats("BF16", every)];
  let wrong = 0;
  for (let bits = 0; bits < 65_536; bits++) {
    if (!Object.is(halves[bits], float(bits, 5, 10)) || !Object.is(bfloats[bits], float(bits, 8, 7))) wrong++;
  }
  t.equal(wrong, 0);
  t.end();
});

/** IEEE 754 by its definition. */
function float(bits: number, exponentBits: number, fractionBits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const largest = (1 << exponentBits) - 1;
  const bias = largest >> 1;
  const exponent = (bits >> fractionBits) & largest;
  const fraction = (bits & ((1 << fractionBits) - 1)) / 2 ** fractionBits;
  if (exponent === largest) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (exponent === 0 ? fraction * 2 ** (1 - bias) : (1 + fraction) * 2 ** (exponent - bias));
}

t.test("any alignment, fresh memory, whole values only", (t) => {
  for (const [dtype, width] of [
    ["F32", 4],
    ["F16", 2],
    ["BF16", 2],
  ] as const) {
    const bytes = Uint8Array.from({ length: 64 }, (_, i) => (i * 37) & 0x3f);
    const expected = decodeFloats(dtype, bytes);
    for (let shift = 1; shift < 5; shift++) {
      const shifted = new Uint8Array(64 + shift);
      shifted.set(bytes, shift);
      t.same(decodeFloats(dtype, shifted.subarray(shift)), expected, `${dtype} at ${shift}`);
    }
    const out = new Float32Array(64 / width + 3);
    decodeFloatsInto(dtype, bytes, out, 2);
    t.same(out.subarray(2, -1), expected);
    t.throws(() => decodeFloatsInto(dtype, bytes, out, 4), RangeError);
    t.throws(() => decodeFloats(dtype, bytes.subarray(0, 63)), { code: "safetensors_invalid" });
    t.not(expected.buffer, bytes.buffer);
  }
  t.throws(() => decodeFloats("I32", new Uint8Array(4)), {
    code: "safetensors_invalid",
    message: /"I32" cannot be read/,
  });
  t.end();
});

t.test("a hostile header costs time in proportion to its size", (t) => {
  for (const text of [
    "[".repeat(1 << 20),
    `{"a":"${"\\u0041".repeat(150_000)}`,
    `{${'"k":{'.repeat(100_000)}`,
    "9".repeat(1 << 20),
  ]) {
    const file = rawSafetensors(text);
    const started = performance.now();
    t.throws(() => parseSafetensorsHeader(file, file.length, { maxHeaderBytes: 2 << 20 }), {
      code: "safetensors_invalid",
    });
    t.ok(performance.now() - started < 500, text.slice(0, 10));
  }
  t.end();
});

t.test("strict JSON agrees with JSON.parse on what it accepts", (t) => {
  const limits = { maxDepth: 5, maxValues: 100 };
  for (const text of ["0", "-0", "1.5e-3", '"\\ud83d\\ude00 é\\n"', "[]", " [1 , [ 2 ], null,true,false ]\n", '""'])
    t.same(parseStrictJson(text, limits), JSON.parse(text), text);
  t.same(parseStrictJson('{"a":{"b":[1]}}', limits), new Map([["a", new Map([["b", [1]]])]]));
  for (const text of [
    "",
    "01",
    "+1",
    "1.",
    ".5",
    "NaN",
    "nul",
    "[1,]",
    '{"a":1,}',
    "{,}",
    "'a'",
    "// x\n1",
    "\ufeff1",
    "1 2",
    '"\\"',
    "tru",
  ])
    t.throws(() => parseStrictJson(text, limits), JsonDefect, text);
  t.end();
});
