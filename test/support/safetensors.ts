/** Builds safetensors files: valid ones and, from parts, broken ones. */
export interface TensorFixture {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data: Uint8Array;
}

export function safetensors(
  tensors: Readonly<Record<string, TensorFixture>>,
  metadata?: Readonly<Record<string, string>>,
): Uint8Array {
  let at = 0;
  const header: Record<string, unknown> = metadata === undefined ? {} : { __metadata__: metadata };
  for (const [name, { dtype, shape, data }] of Object.entries(tensors)) {
    header[name] = { dtype, shape, data_offsets: [at, at + data.length] };
    at += data.length;
  }
  return rawSafetensors(JSON.stringify(header), Buffer.concat(Object.values(tensors).map(({ data }) => data)));
}

/** Any header, with its true length unless `claimed` says otherwise. */
export function rawSafetensors(
  header: string | Uint8Array,
  data: Uint8Array = new Uint8Array(0),
  claimed?: bigint,
): Uint8Array {
  const text = Buffer.from(header as string);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(claimed ?? BigInt(text.length));
  return new Uint8Array(Buffer.concat([length, text, data]));
}

export function f32Bytes(values: Float32Array | readonly number[]): Uint8Array {
  return new Uint8Array(Float32Array.from(values).buffer);
}
