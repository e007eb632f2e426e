/** Lists come in pages: bounded in items and bytes, whatever lies behind them. */
import Type, { type TInteger, type TOptional } from "typebox";

/** Bytes of a page's JSON, about: one that has so many has no more items. A thousand ordinary ones have less. */
const PAGE_BYTES = 1024 ** 2;
/** Items that a store is asked for at a time. */
const AT_A_TIME = 100;

export const DEFAULT_LIMIT = 100;

/** `limit` of a list's query; `what` is counted. */
export function pageLimit(what: string): TOptional<TInteger> {
  return Type.Optional(
    Type.Integer({
      minimum: 1,
      maximum: 1000,
      default: DEFAULT_LIMIT,
      description: `${what} per page; a page also ends at about 1 MiB`,
    }),
  );
}

export const NextPage = Type.Union([Type.String(), Type.Null()], {
  description: "Value of `after` for the next page; null: this is the last page",
});

/**
 * The next `limit` of the items, one more of which is read to know whether there are more. `shown` is what the answer has of one, `idOf` where
 * a page that ends with it goes on: `next`, null after the last one.
 */
export async function pageOf<T, Shown>(
  items: AsyncIterable<T>,
  limit: number,
  shown: (item: T) => Shown,
  idOf: (item: T) => string,
): Promise<{ page: Shown[]; next: string | null }> {
  const page: Shown[] = [];
  let bytes = 0;
  let last: string | null = null;
  for await (const item of items) {
    if (last !== null && (page.length === limit || bytes >= PAGE_BYTES)) return { page, next: last };
    const entry = shown(item);
    bytes += Buffer.byteLength(JSON.stringify(entry));
    page.push(entry);
    last = idOf(item);
  }
  return { page, next: null };
}

/** All items after `after`, as many of which are read as are taken, for a page of `limit`. `positionOf` is what `read` goes on after. */
export async function* inPieces<T, Position>(
  read: (options: { after?: Position; limit: number }) => Promise<T[]>,
  after: Position | undefined,
  limit: number,
  positionOf: (item: T) => Position,
): AsyncGenerator<T, void> {
  const atATime = Math.min(limit + 1, AT_A_TIME);
  for (let last = after; ; ) {
    const piece = await read({ limit: atATime, ...(last === undefined ? {} : { after: last }) });
    yield* piece;
    if (piece.length < atATime) return;
    last = positionOf(piece.at(-1)!);
  }
}
