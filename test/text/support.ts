import { NOTHING_AROUND } from "../../src/text/tokenizer-json.ts";
import type { Tokenizer } from "../../src/text/tokenizer.ts";

/** Deterministic numbers in [0, 1) (mulberry32 by Tommy Ettinger, public domain). */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A tokenizer whose ids 0..255 are single bytes and whose id 256 is special: any byte sequence can be generated. */
export function byteTokenizer(): Tokenizer {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const bytesOf = (id: number): Uint8Array => (id < 256 ? Uint8Array.of(id) : new Uint8Array(0));
  return {
    vocabSize: 257,
    eosId: 256,
    longestToken: 1,
    around: NOTHING_AROUND,
    named: new Map(),
    beyondModel: new Map(),
    encode: (text) => Int32Array.from(new TextEncoder().encode(text)),
    *encodeInSteps(text) {
      return this.encode(text);
    },
    decode: (ids) => decoder.decode(Uint8Array.from([...ids].flatMap((id) => [...bytesOf(id)]))),
    bytesOf,
    tokenText: (id) => (id === 256 ? "<|end|>" : decoder.decode(bytesOf(id))),
    isSpecial: (id) => id === 256,
  };
}
