/**
 * GPT-2's byte alphabet writes every byte as one printable character, so that a vocabulary of strings can hold any
 * bytes. Printable Latin-1 characters stand for themselves; the other 68 bytes map to U+0100 and up, in order
 * (`bytes_to_unicode` in openai/gpt-2, encoder.py).
 */
const CHARACTERS: readonly string[] = alphabet();
const BYTES: ReadonlyMap<string, number> = new Map(CHARACTERS.map((character, byte) => [character, byte]));
const utf8 = new TextEncoder();

function alphabet(): string[] {
  let shifted = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte !== 0xad);
    return String.fromCodePoint(printable ? byte : shifted++);
  });
}

/** The 256 characters, by byte. */
export function byteCharacters(): readonly string[] {
  return CHARACTERS;
}

/** The bytes of a vocabulary entry. An added token with characters outside the alphabet is its own UTF-8. */
export function tokenBytes(token: string): Uint8Array {
  const bytes: number[] = [];
  for (const character of token) {
    const byte = BYTES.get(character);
    if (byte === undefined) return utf8.encode(token);
    bytes.push(byte);
  }
  return Uint8Array.from(bytes);
}
