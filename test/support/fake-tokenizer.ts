import { NOTHING_AROUND, type SurroundingIds } from "../../src/text/tokenizer-json.ts";
import type { Tokenizer } from "../../src/text/tokenizer.ts";

const EOS = 256;

/** Bytes as tokens: id = byte, 256 = EOS. */
export class FakeTokenizer implements Tokenizer {
  readonly vocabSize = 257;
  readonly eosId = EOS;
  readonly longestToken = 1;
  readonly around: SurroundingIds = NOTHING_AROUND;
  readonly named = new Map([["eos_token", "<|endoftext|>"]]);
  readonly beyondModel: ReadonlyMap<number, string> = new Map();

  encode(text: string): Int32Array {
    return Int32Array.from(Buffer.from(text));
  }

  *encodeInSteps(...args: Parameters<Tokenizer["encode"]>): Generator<number, Int32Array> {
    return (this as Tokenizer).encode(...args);
  }

  decode(ids: Iterable<number>): string {
    return Buffer.from([...ids].filter((id) => id < EOS)).toString();
  }

  bytesOf(id: number): Uint8Array {
    return id < EOS ? Uint8Array.of(id) : new Uint8Array(0);
  }

  tokenText(id: number): string {
    return id === EOS ? "<|endoftext|>" : this.decode([id]);
  }

  isSpecial(id: number): boolean {
    return id === EOS;
  }
}
