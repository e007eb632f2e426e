/** Paging of lists: pages are bounded in items and bytes. */
import Type, { type TInteger, type TOptional } from "typebox";

/** A page ends once its JSON has about this many bytes; a thousand ordinary items have fewer. */
const PAGE_BYTES = 1024 ** 2;
/** Maximum items per call to a store. */
const MAX_BATCH = 100;

export const DEFAULT_LIMIT = 100;

/** Schema of a list's `limit` parameter. `what` names the items, for the description. */
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
 * Collects one page of up to `limit` items; reads one more item to know whether more follow. `shown` converts an item
 * for the response. `next` is the page's last `idOf`, from which the next page continues; null on the last page.
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

/**
 * All items after `after`, read in batches and only as far as the consumer takes them (for a page of `limit`).
 * `positionOf` gives the position after which `read` continues.
 */
export async function* inBatches<T, Position>(
  read: (options: { after?: Position; limit: number }) => Promise<T[]>,
  after: Position | undefined,
  limit: number,
  positionOf: (item: T) => Position,
): AsyncGenerator<T, void> {
  const size = Math.min(limit + 1, MAX_BATCH);
  for (let last = after; ; ) {
    const batch = await read({ limit: size, ...(last === undefined ? {} : { after: last }) });
    yield* batch;
    if (batch.length < size) return;
    last = positionOf(batch.at(-1)!);
  }
}
