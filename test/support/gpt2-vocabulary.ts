import { readFileSync } from "node:fs";
import { inflateSync } from "node:zlib";

const MERGES = 50_000;

/** The bytes of GPT-2's 50,257 tokens; none for <|endoftext|>, the last. From tools/reference/gpt2_vocabulary.py. */
export function gpt2Tokens(): Uint8Array[] {
  const numbers = inflateSync(readFileSync(new URL("../golden/gpt2-merges.zlib", import.meta.url)));
  const id = (index: number): number => numbers.readUInt16LE(2 * index);
  const shown = (byte: number): boolean => (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte !== 0xad);
  const bytes = Array.from({ length: 256 }, (_, byte) => byte);
  const tokens = [...bytes.filter(shown), ...bytes.filter((byte) => !shown(byte))].map((byte) => Uint8Array.of(byte));
  for (let merge = 0; merge < MERGES; merge++)
    tokens.push(Uint8Array.of(...tokens[id(merge)]!, ...tokens[id(MERGES + merge)]!));
  return [...tokens, new Uint8Array(0)];
}
