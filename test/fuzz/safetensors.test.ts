/** The safetensors reader and the PEFT parser on top of it: sound files come back as they are, all others are refused by code. */
import fc from "fast-check";
import t from "tap";
import { PrefixdError, type ErrorCode } from "../../src/errors.ts";
import { parseSafetensorsHeader, type SafetensorsHeader } from "../../src/formats/safetensors.ts";
import { parsePeftAdapter, type PeftAdapter } from "../../src/prefixes/peft.ts";
import { CONFIG } from "../prefixes/adapter-files.ts";
import { BASE, SHAPE } from "../prefixes/records.ts";
import { f32Bytes, rawSafetensors, safetensors, type TensorFixture } from "../support/safetensors.ts";
import { anyText } from "./support/from-schema.ts";
import { holds } from "./support/runs.ts";

const WIDTHS = { BOOL: 1, U8: 1, F16: 2, BF16: 2, I32: 4, F32: 4, F64: 8, I64: 8 } as const;
const LIMITS = { maxHeaderBytes: 1 << 16, maxTensors: 64, maxNameLength: 256 };

const tensor: fc.Arbitrary<TensorFixture> = fc
  .record({
    dtype: fc.constantFrom(...(Object.keys(WIDTHS) as (keyof typeof WIDTHS)[])),
    shape: fc.array(fc.nat({ max: 4 }), { maxLength: 3 }),
  })
  .chain(({ dtype, shape }) => {
    const length = shape.reduce((size, dimension) => size * dimension, WIDTHS[dtype]);
    return fc.uint8Array({ minLength: length, maxLength: length }).map((data) => ({ dtype, shape, data }));
  });
// As the format's own writer has it: keys of "__proto__" cannot be written with an object literal's assignment.
const name = fc
  .string({ unit: "binary", maxLength: 20 })
  .filter((text) => text !== "__metadata__" && text !== "__proto__");
const sound = fc.tuple(
  fc.dictionary(name, tensor, { maxKeys: 5 }),
  fc.dictionary(name, fc.string({ unit: "binary" }), { maxKeys: 3 }),
);

/** Changes to the bytes of a file, or to the text of its header with the length made right again. */
const edit = fc.oneof(
  fc.record({ kind: fc.constant("flip" as const), at: fc.nat(), value: fc.integer({ min: 1, max: 255 }) }),
  fc.record({ kind: fc.constant("cut" as const), at: fc.nat(), value: fc.nat() }),
  fc.record({ kind: fc.constant("insert" as const), at: fc.nat(), value: fc.nat({ max: 255 }) }),
  fc.record({
    kind: fc.constant("claim" as const),
    at: fc.nat(),
    value: fc.constantFrom(0, 1, 2, 2 ** 16, 2 ** 32, 2 ** 53),
  }),
  fc.record({
    kind: fc.constant("token" as const),
    at: fc.nat(),
    value: fc.constantFrom(
      "{",
      "}",
      "[",
      "]",
      ",",
      ":",
      '"',
      "0",
      "-1",
      "1e3",
      "1e999",
      "null",
      '"F32"',
      "9007199254740993",
      '"__metadata__"',
      "\ud800",
    ),
  }),
);
type Edit = typeof edit extends fc.Arbitrary<infer T> ? T : never;

function applied(file: Uint8Array, { kind, at, value }: Edit): Uint8Array {
  const place = at % (file.length + 1);
  const bytes = Buffer.from(file);
  switch (kind) {
    case "flip":
      if (file.length > 0) bytes[at % file.length]! ^= value;
      return bytes;
    case "cut":
      return bytes.subarray(0, place);
    case "insert":
      return Buffer.concat([bytes.subarray(0, place), Buffer.of(value), bytes.subarray(place)]);
    case "claim":
      if (bytes.length >= 8) bytes.writeBigUInt64LE(BigInt(value));
      return bytes;
    case "token": {
      if (bytes.length < 8) return bytes;
      const end = 8 + Number(bytes.readBigUInt64LE() % BigInt(bytes.length - 7));
      const header = bytes.subarray(8, end).toString();
      const tokens = header.match(/"(?:[^"\\]|\\.)*"|-?\d+|./gs) ?? [""];
      tokens[at % tokens.length] = value;
      return rawSafetensors(tokens.join(""), bytes.subarray(end));
    }
  }
}

/** The answer, or the code of the refusal. Anything else that is thrown goes on. */
function outcome<T>(read: () => T): T | ErrorCode {
  try {
    return read();
  } catch (error) {
    if (error instanceof PrefixdError) return error.code;
    throw error;
  }
}

/** What the format asks of a header that has been accepted, held against JSON.parse's reading of the same bytes. */
function isSound({ tensors, metadata }: SafetensorsHeader, file: Uint8Array): boolean {
  const start = 8 + Number(Buffer.from(file).readBigUInt64LE());
  const json = new Map(
    Object.entries(
      JSON.parse(Buffer.from(file.subarray(8, start)).toString()) as Record<
        string,
        { dtype: string; shape: number[]; data_offsets: [number, number] }
      >,
    ),
  );
  const meta = json.get("__metadata__");
  json.delete("__metadata__");
  const same = [...tensors].every(([key, { dtype, shape, start: from, end }]) => {
    const entry = json.get(key);
    return (
      entry?.dtype === dtype &&
      String(entry.shape) === String(shape) &&
      entry.data_offsets[0] === from - start &&
      entry.data_offsets[1] === end - start
    );
  });
  const ranges = [...tensors.values()].filter(({ start: from, end }) => end > from).sort((a, b) => a.start - b.start);
  const covered = ranges.reduce((at, { start: from, end }) => (from === at ? end : NaN), start);
  return (
    same &&
    json.size === tensors.size &&
    covered === file.length &&
    JSON.stringify(Object.fromEntries(metadata)) === JSON.stringify(meta ?? {})
  );
}

t.test("files come back as they were written", async (t) => {
  await holds(
    t,
    400,
    fc.property(sound, ([tensors, metadata]) => {
      const file = safetensors(tensors, metadata);
      const header = parseSafetensorsHeader(file, file.length, LIMITS);
      const read = Object.fromEntries(
        [...header.tensors].map(([key, { dtype, shape, start, end }]) => [
          key,
          { dtype, shape, data: [...file.subarray(start, end)] },
        ]),
      );
      const written = Object.fromEntries(
        Object.entries(tensors).map(([key, { dtype, shape, data }]) => [key, { dtype, shape, data: [...data] }]),
      );
      return (
        JSON.stringify(read) === JSON.stringify(written) &&
        JSON.stringify(Object.fromEntries(header.metadata)) === JSON.stringify(metadata)
      );
    }),
  );
});

t.test("a changed file is either sound or refused as safetensors_invalid", async (t) => {
  await holds(
    t,
    1200,
    fc.property(sound, fc.array(edit, { minLength: 1, maxLength: 3 }), ([tensors, metadata], edits) => {
      const file = edits.reduce(applied, safetensors(tensors, metadata));
      const read = outcome(() => parseSafetensorsHeader(file, file.length, LIMITS));
      return typeof read === "string" ? read === "safetensors_invalid" : isSound(read, file);
    }),
  );
});

const PEFT_CODES: readonly ErrorCode[] = [
  "adapter_config_invalid",
  "adapter_type_unsupported",
  "adapter_shape_mismatch",
  "safetensors_invalid",
  "prefix_not_finite",
  "prefix_too_long",
  "prefix_base_mismatch",
];

t.test("a changed adapter is either one that fits the model or refused by its code", async (t) => {
  const length = 3;
  const columns = SHAPE.layers * 2 * SHAPE.width;
  const weights = safetensors(
    {
      prompt_embeddings: {
        dtype: "F32",
        shape: [length, columns],
        data: f32Bytes(Array.from({ length: length * columns }, (_, i) => i / 8)),
      },
    },
    { format: "pt" },
  );
  const key = fc.oneof(
    fc.constantFrom(
      ...Object.keys(CONFIG),
      "modules_to_save",
      "prefixd_base_fingerprint",
      "preseqlen",
      "model_type",
      "__proto__",
    ),
    anyText,
  );
  const value = fc.oneof(
    fc.jsonValue(),
    fc.constantFrom<unknown>("CARTRIDGE", "PROMPT_TUNING", "P_TUNING", "CPT", "LORA", BASE, 0, 1, 3, 2 ** 53, []),
  );
  const config = fc.oneof(
    fc
      .array(fc.tuple(key, value), { maxLength: 2 })
      .map((changes) => Buffer.from(JSON.stringify({ ...CONFIG, ...Object.fromEntries(changes) }))),
    fc.uint8Array().map((bytes) => Buffer.from(bytes)),
    fc.tuple(fc.nat(), fc.nat({ max: 255 })).map(([at, byte]) => {
      const bytes = Buffer.from(JSON.stringify(CONFIG));
      bytes[at % bytes.length] = byte;
      return bytes;
    }),
  );
  const fits = (adapter: PeftAdapter): boolean => {
    const [data, rows, wanted] =
      "kv" in adapter
        ? [adapter.kv.data, adapter.kv.length, columns]
        : [adapter.fold.data, adapter.fold.length, SHAPE.width];
    return rows > 0 && rows < SHAPE.positions && data.length === rows * wanted && data.every(Number.isFinite);
  };
  await holds(
    t,
    800,
    fc.property(config, fc.array(edit, { maxLength: 2 }), (json, edits) => {
      const read = outcome(() => parsePeftAdapter(json, edits.reduce(applied, weights), SHAPE, BASE));
      return typeof read === "string" ? PEFT_CODES.includes(read) : fits(read);
    }),
  );
});
