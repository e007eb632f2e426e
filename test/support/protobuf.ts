/** Decodes protobuf messages without their schema, to inspect a written ONNX model or exported spans. */

export type Field = { readonly number: number; readonly value: bigint | Uint8Array };

/** Decodes a message by wire format alone: varints, 4- and 8-byte values and length-delimited ones. */
export function decode(bytes: Uint8Array): Field[] {
  const fields: Field[] = [];
  let at = 0;
  const varint = (): bigint => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes[at++]!;
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  const take = (length: number): Uint8Array => bytes.subarray(at, (at += length));
  while (at < bytes.length) {
    const key = varint();
    const wire = Number(key & 7n);
    const fixed = wire === 5 ? 4 : wire === 1 ? 8 : null;
    if (wire !== 0 && wire !== 2 && fixed === null) throw new Error(`wire type ${wire}`);
    fields.push({ number: Number(key >> 3n), value: wire === 0 ? varint() : take(fixed ?? Number(varint())) });
  }
  if (at !== bytes.length) throw new Error("the message ends in the middle of a field");
  return fields;
}
/** Values of all fields with this number, in order. */
export const all = (fields: readonly Field[], number: number): Field["value"][] =>
  fields.filter((field) => field.number === number).map(({ value }) => value);
export const messages = (fields: readonly Field[], number: number): Field[][] =>
  all(fields, number).map((value) => decode(value as Uint8Array));
export const text = (fields: readonly Field[], number: number): string[] =>
  all(fields, number).map((value) => Buffer.from(value as Uint8Array).toString());
