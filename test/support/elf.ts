/**
 * A minimal 64-bit little-endian ELF file with NEEDED entries: header, two program headers, dynamic section, string
 * table.
 */
export function elfNeeding(names: readonly string[]): Buffer {
  const strings = Buffer.from(`\0${names.join("\0")}\0`, "latin1");
  const dynamicAt = 64 + 2 * 56;
  const entries: [bigint, bigint][] = [];
  let at = 1n;
  for (const name of names) {
    entries.push([1n, at]);
    at += BigInt(name.length + 1);
  }
  const stringsAt = dynamicAt + 16 * (names.length + 2);
  // The load address differs from the file offset.
  const base = 0x40_0000n;
  entries.push([5n, base + BigInt(stringsAt)], [0n, 0n]);
  const file = Buffer.alloc(stringsAt + strings.length);
  Buffer.from([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]).copy(file);
  file.writeBigUInt64LE(64n, 32);
  file.writeUInt16LE(56, 54);
  file.writeUInt16LE(2, 56);
  for (const [index, { type, offset, address, size }] of [
    { type: 1, offset: 0, address: base, size: file.length },
    { type: 2, offset: dynamicAt, address: base + BigInt(dynamicAt), size: 16 * entries.length },
  ].entries()) {
    const header = 64 + 56 * index;
    file.writeUInt32LE(type, header);
    file.writeBigUInt64LE(BigInt(offset), header + 8);
    file.writeBigUInt64LE(address, header + 16);
    file.writeBigUInt64LE(BigInt(size), header + 32);
  }
  entries.forEach(([tag, value], index) => {
    file.writeBigUInt64LE(tag, dynamicAt + 16 * index);
    file.writeBigUInt64LE(value, dynamicAt + 16 * index + 8);
  });
  strings.copy(file, stringsAt);
  return file;
}
