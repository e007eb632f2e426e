/**
 * The format of LMDB's files, data version 2 on 64 bits, little-endian (liblmdb/mdb.c: MDB_page_header, MDB_node,
 * MDB_ovpage, MDB_db, MDB_meta), and functions that read it and throw Damage for impossible values:
 *
 *   page   number u64, transaction u64, padding u16, flags u16, lower u16, upper u16 (overflow page: page count u32),
 *          then u16 offsets of nodes (`lower` bytes), free space up to `upper`, nodes up to the page's end; all offsets
 *          count from the header's end
 *   node   data size u32 (branch: child page u48), flags u16, key size u16, key, data; starts at an even byte
 *   tree   padding u32, flags u16, depth u16, then u64 each: branch pages, leaf pages, overflow pages, entries, root
 *   meta   magic u32, version u32, address u64, map size u64, tree of free pages, main tree, last page u64,
 *          transaction u64
 */
const [MAGIC, VERSION] = [0xbeefc0de, 2];
export const [PAGE_HEADER, NODE_HEADER, TREE_BYTES] = [24, 8, 48];
const [META_BYTES, OVERFLOW_REFERENCE] = [136, 24];
export const [BRANCH, LEAF, OVERFLOW, META] = [1, 2, 4, 8];
/** Node flags: the data is on pages of its own; the node is a named tree. */
export const [BIG, TREE] = [1, 2];
/** Flag of the free page tree: its keys are numbers. Bits above these eight hold settings of the last writer. */
const INTEGER_KEYS = 8;
const KIND_BITS = 0xff;
/** Root of a tree without pages. */
export const NO_PAGE = 2 ** 64;
const PAGE_SIZES: ReadonlySet<number> = new Set([4096, 8192, 16384, 32768, 65536]);

/** A defect of a file or a value in it, without the path. */
export class Damage extends Error {
  override readonly name = "Damage";
}

export interface Tree {
  readonly name: string;
  readonly depth: number;
  readonly branches: number;
  readonly leaves: number;
  readonly overflows: number;
  readonly entries: number;
  readonly root: number;
}

export interface Meta {
  readonly pageSize: number;
  readonly free: Tree;
  readonly main: Tree;
  readonly lastPage: number;
  readonly transaction: number;
}

/** Bytes of a meta page in use. */
export const META_PAGE_BYTES = PAGE_HEADER + META_BYTES;

/** Reads meta page 0 or 1. */
export function metaOf(page: Buffer, number: number): Meta {
  const meta = page.subarray(PAGE_HEADER);
  must(
    meta.readUInt32LE(0) === MAGIC && meta.readUInt32LE(4) === VERSION,
    `its meta page ${number} is not one of an LMDB file of version ${VERSION}`,
  );
  must(u64(page, 0) === number && page.readUInt16LE(18) === META, `its meta page ${number} is not one`);
  const pageSize = meta.readUInt32LE(24);
  must(PAGE_SIZES.has(pageSize), `its pages cannot have ${pageSize} bytes`);
  return {
    pageSize,
    free: treeAt(meta, 24, "free pages", INTEGER_KEYS, KIND_BITS),
    main: treeAt(meta, 24 + TREE_BYTES, "main", 0),
    lastPage: u64(meta, 120),
    transaction: u64(meta, 128),
  };
}

export function must(holds: boolean, otherwise: string): asserts holds {
  if (!holds) throw new Damage(otherwise);
}

export function u64(buffer: Buffer, at: number): number {
  return buffer.readUInt32LE(at) + buffer.readUInt32LE(at + 4) * 2 ** 32;
}

/** Reads a tree; it must have exactly `flags` among `bits`. */
export function treeAt(buffer: Buffer, at: number, name: string, flags: number, bits = 0xffff): Tree {
  must((buffer.readUInt16LE(at + 4) & bits) === flags, `the tree "${name}" is of another kind`);
  return {
    name,
    depth: buffer.readUInt16LE(at + 6),
    branches: u64(buffer, at + 8),
    leaves: u64(buffer, at + 16),
    overflows: u64(buffer, at + 24),
    entries: u64(buffer, at + 32),
    root: u64(buffer, at + 40),
  };
}

/** Offsets of a page's nodes, in key order: they fill the page from `upper` to its end without gaps. */
export function nodesOf(page: Buffer, number: number, isLeaf: boolean): number[] {
  const [lower, upper, end] = [page.readUInt16LE(20), page.readUInt16LE(22), page.length - PAGE_HEADER];
  must(
    lower % 2 === 0 && lower >= (isLeaf ? 2 : 4) && lower <= upper && upper <= end,
    `page ${number} has bounds that cannot be`,
  );
  const nodes: number[] = [];
  for (let i = 0; i < lower; i += 2) nodes.push(PAGE_HEADER + page.readUInt16LE(PAGE_HEADER + i));
  let next = PAGE_HEADER + upper;
  for (const at of [...nodes].sort((a, b) => a - b)) {
    must(at === next && at + NODE_HEADER <= page.length, `page ${number} has entries that overlap`);
    const big = (page.readUInt16LE(at + 4) & BIG) !== 0;
    const data = !isLeaf ? 0 : big ? OVERFLOW_REFERENCE : page.readUInt32LE(at);
    const size = NODE_HEADER + page.readUInt16LE(at + 6) + data;
    next = at + size + (size % 2);
    must(next <= page.length, `page ${number} has an entry that goes beyond its end`);
  }
  must(next === page.length, `page ${number} has entries that overlap`);
  return nodes;
}

export function keyAt(page: Buffer, at: number): Buffer {
  return page.subarray(at + NODE_HEADER, at + NODE_HEADER + page.readUInt16LE(at + 6));
}
