/** Lines of a file of any size, in bounded memory. */

export interface RawLine {
  /** From 1. */
  readonly number: number;
  /** Without the line end; null if there are more than `maxBytes`. */
  readonly bytes: Uint8Array | null;
}

const LINE_FEED = 0x0a;
const CARRIAGE_RETURN = 0x0d;

/** Splits at line feeds; a carriage return before one belongs to the line end. Keeps at most one line in memory. */
export async function* linesOf(chunks: AsyncIterable<Uint8Array>, maxBytes: number): AsyncGenerator<RawLine> {
  let number = 0;
  let parts: Uint8Array[] = [];
  let length = 0;
  const add = (part: Uint8Array): void => {
    length += part.length;
    if (length > maxBytes + 1) parts = [];
    else if (part.length > 0) parts.push(part);
  };
  const take = (): RawLine => {
    const whole = Buffer.concat(parts);
    const end = whole.at(-1) === CARRIAGE_RETURN ? length - 1 : length;
    const bytes = end > maxBytes ? null : whole.subarray(0, end);
    [parts, length] = [[], 0];
    return { number: ++number, bytes };
  };
  for await (const chunk of chunks) {
    let start = 0;
    for (let end = chunk.indexOf(LINE_FEED); end >= 0; end = chunk.indexOf(LINE_FEED, start)) {
      add(chunk.subarray(start, end));
      yield take();
      start = end + 1;
    }
    add(chunk.subarray(start));
  }
  if (length > 0) yield take();
}
