/**
 * LMDB maps its file into memory and trusts what it reads: a page outside the file, or bounds outside a page, end the
 * process with a signal, and with it everybody's requests. So before a file is mapped, it is checked page by page with
 * ordinary reads: both meta pages, every page of every tree, and the start of each value that has pages of its own. A
 * file that passes can be mapped.
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import {
  BIG,
  BRANCH,
  keyAt,
  LEAF,
  META_PAGE_BYTES,
  metaOf,
  must,
  NO_PAGE,
  NODE_HEADER,
  nodesOf,
  OVERFLOW,
  PAGE_HEADER,
  TREE,
  TREE_BYTES,
  treeAt,
  u64,
  type Meta,
  type Tree,
} from "./format.ts";

/**
 * Pages allocated last and freed in the same transaction are never written, so a file may end before its last page, but
 * not by this much (1 GiB of 4 KiB pages).
 */
const MOST_UNWRITTEN = 2 ** 18;
/** Another process may write during the check, which then mixes two states. */
const TRIES = 5;

/** The file cannot be what was written. For the operator: the message contains the path. */
export class DamagedFileError extends Error {
  override readonly name = "DamagedFileError";
}

/** The owner's check of a file's contents; throws Damage. Created for each reading of the file. */
export interface ContentsCheck {
  /**
   * Called for each entry of the named trees. Keys are those of ASCII texts; the result of `read` is only valid during
   * the call.
   */
  entry(tree: string, key: string, size: number, read: () => Buffer): void;
  /** Called after all entries. */
  end(): void;
}

/**
 * Checks a file on disk for everything that could crash LMDB.
 * @throws DamagedFileError; the system's error if the file cannot be read
 */
export function checkLmdbFile(path: string, contents?: () => ContentsCheck): void {
  const file = openSync(path, "r");
  try {
    for (let attempt = 1; ; attempt++) {
      const reading = new Reading(file);
      try {
        return reading.check(contents?.());
      } catch (error) {
        if (!(error instanceof Error) || "errno" in error) throw error;
        if (attempt === TRIES || !reading.hasMoved())
          throw new DamagedFileError(`${path} is damaged: ${error.message}`, { cause: error });
      }
    }
  } finally {
    closeSync(file);
  }
}

interface Leaf {
  readonly key: Buffer;
  readonly size: number;
  /** First page of the data; null if it is inline in `data`. */
  readonly page: number | null;
  readonly data: Buffer | null;
  readonly isTree: boolean;
}

/** Totals of the walk over one tree. */
interface Count {
  branches: number;
  leaves: number;
  overflows: number;
  entries: number;
}

type Compare = (a: Buffer, b: Buffer) => number;

class Reading {
  readonly #file: number;
  #meta: Meta | null = null;
  /** One byte per page of the file: 1 if in use. */
  #used = new Uint8Array();
  /** One buffer per level of a tree. */
  readonly #buffers: Buffer[] = [];

  constructor(file: number) {
    this.#file = file;
  }

  check(contents: ContentsCheck | undefined): void {
    const meta = (this.#meta = this.#newestMeta());
    // Read after the meta page, which is written after a transaction's pages: another process may have just extended
    // the file.
    const pages = Math.floor(fstatSync(this.#file).size / meta.pageSize);
    must(
      meta.lastPage >= 1 && meta.lastPage < pages + MOST_UNWRITTEN,
      `it should have ${meta.lastPage + 1} pages and has ${pages}`,
    );
    this.#used = new Uint8Array(pages).fill(1, 0, 2);
    const named: Tree[] = [];
    this.#walk(meta.main, compareBytes, ({ key, data, isTree }) => {
      must(isTree && data?.length === TREE_BYTES, "its main tree has something else than trees");
      // lmdb-js stores names with a terminating zero.
      named.push(treeAt(data, 0, key.toString("latin1").replace("\0", ""), 0));
    });
    for (const tree of named)
      this.#walk(tree, compareBytes, (leaf) => {
        must(!leaf.isTree, `there is a tree within the tree "${tree.name}"`);
        contents?.entry(tree.name, leaf.key.toString("latin1"), leaf.size, () => this.#data(leaf));
      });
    this.#walk(meta.free, compareNumbers, (leaf) => this.#checkFree(this.#data(leaf), meta));
    contents?.end();
  }

  /** True if another process has written since the check began. */
  hasMoved(): boolean {
    try {
      return this.#meta === null || this.#newestMeta().transaction !== this.#meta.transaction;
    } catch {
      return false;
    }
  }

  #read(buffer: Buffer, at: number): void {
    const read = readSync(this.#file, buffer, 0, buffer.length, at);
    must(read === buffer.length, `it ends at byte ${at + read}, within what is in use`);
  }

  /**
   * Transaction N is in meta page N % 2, the previous one in the other: LMDB uses the newer, and the next transaction
   * overwrites the older.
   */
  #newestMeta(): Meta {
    const page = Buffer.alloc(META_PAGE_BYTES);
    this.#read(page, 0);
    const first = metaOf(page, 0);
    this.#read(page, first.pageSize);
    const second = metaOf(page, 1);
    must(first.pageSize === second.pageSize, "its meta pages differ in the size of pages");
    const [a, b] = [first.transaction, second.transaction];
    must(
      (a === 0 && b === 0) || (a % 2 === 0 && Math.abs(a - b) === 1),
      "its meta pages are not of two transactions one after the other",
    );
    return a >= b ? first : second;
  }

  #walk(tree: Tree, compare: Compare, visit: (leaf: Leaf) => void): void {
    const count: Count = { branches: 0, leaves: 0, overflows: 0, entries: 0 };
    if (tree.root === NO_PAGE) must(tree.depth === 0, `the tree "${tree.name}" has no root`);
    else {
      must(tree.depth >= 1 && tree.depth <= 32, `the tree "${tree.name}" cannot be ${tree.depth} deep`);
      this.#page(tree, tree.root, 1, { low: null, high: null }, { compare, count, visit });
    }
    const { branches, leaves, overflows, entries } = count;
    const same =
      branches === tree.branches && leaves === tree.leaves && overflows === tree.overflows && entries === tree.entries;
    must(same, `the tree "${tree.name}" is not as large as it says`);
  }

  /** All keys below a page must be in [low, high). */
  #page(
    tree: Tree,
    number: number,
    level: number,
    bounds: { low: Buffer | null; high: Buffer | null },
    walk: { compare: Compare; count: Count; visit: (leaf: Leaf) => void },
  ): void {
    const { pageSize } = this.#meta!;
    this.#take(number, 1);
    const page = (this.#buffers[level] ??= Buffer.alloc(pageSize));
    this.#read(page, number * pageSize);
    const isLeaf = level === tree.depth;
    this.#checkHeader(page, number, isLeaf ? LEAF : BRANCH);
    walk.count[isLeaf ? "leaves" : "branches"]++;
    const nodes = nodesOf(page, number, isLeaf);
    let before = bounds.low;
    for (let i = 0; i < nodes.length; i++) {
      const at = nodes[i]!;
      const key = keyAt(page, at);
      // A branch's first key is implicit: it covers everything below.
      const counts = isLeaf || i > 0;
      must(
        !counts || (key.length > 0 && (walk.compare !== compareNumbers || key.length === 8)),
        `page ${number} has a key that cannot be one`,
      );
      if (counts) {
        const order = before === null ? 1 : walk.compare(key, before);
        must(order > 0 || (order === 0 && i === 0), `the keys of page ${number} are not in order`);
        must(
          bounds.high === null || walk.compare(key, bounds.high) < 0,
          `the keys of page ${number} are not those that lead to it`,
        );
        before = key;
      }
      if (isLeaf) {
        walk.count.entries++;
        walk.visit(this.#leaf(page, at, key, walk.count));
      } else {
        const next = nodes[i + 1];
        this.#page(
          tree,
          page.readUIntLE(at, 6),
          level + 1,
          { low: counts ? key : bounds.low, high: next === undefined ? bounds.high : keyAt(page, next) },
          walk,
        );
      }
    }
  }

  #leaf(page: Buffer, at: number, key: Buffer, count: Count): Leaf {
    const [size, flags, start] = [page.readUInt32LE(at), page.readUInt16LE(at + 4), at + NODE_HEADER + key.length];
    must(flags === 0 || flags === BIG || flags === TREE, `page ${u64(page, 0)} has an entry of no known kind`);
    if (flags !== BIG)
      return { key, size, page: null, data: page.subarray(start, start + size), isTree: flags === TREE };
    const [first, transaction, pages] = [u64(page, start), u64(page, start + 8), u64(page, start + 16)];
    const { pageSize } = this.#meta!;
    must(
      pages === Math.floor((PAGE_HEADER - 1 + size) / pageSize) + 1,
      `page ${u64(page, 0)} has an entry whose size and pages do not agree`,
    );
    this.#take(first, pages);
    const header = Buffer.alloc(PAGE_HEADER);
    this.#read(header, first * pageSize);
    this.#checkHeader(header, first, OVERFLOW);
    must(
      u64(header, 8) === transaction && header.readUInt32LE(20) === pages,
      `page ${first} does not begin what refers to it`,
    );
    count.overflows += pages;
    return { key, size, page: first, data: null, isTree: false };
  }

  /** With a transaction number above the newest, LMDB would write into the page in place. */
  #checkHeader(page: Buffer, number: number, flags: number): void {
    must(u64(page, 0) === number && page.readUInt16LE(18) === flags, `page ${number} is not what leads to it`);
    must(u64(page, 8) <= this.#meta!.transaction, `page ${number} is of a transaction that there was not yet`);
  }

  #take(first: number, pages: number): void {
    must(
      first >= 2 && first + pages <= this.#used.length && first + pages - 1 <= this.#meta!.lastPage,
      `it ends before page ${first + pages - 1}, which is in use`,
    );
    must(!this.#used.subarray(first, first + pages).includes(1), `page ${first} is used twice`);
    this.#used.fill(1, first, first + pages);
  }

  #data({ data, page, size }: Leaf): Buffer {
    if (data !== null) return data;
    const whole = Buffer.alloc(size);
    this.#read(whole, page! * this.#meta!.pageSize + PAGE_HEADER);
    return whole;
  }

  /** A count, then page numbers: 0 is none, and -n before a number starts a run of n pages. */
  #checkFree(list: Buffer, { lastPage }: Meta): void {
    const length = list.length < 8 ? Infinity : u64(list, 0);
    must(length < Math.floor(list.length / 8), "a list of free pages is longer than it can be");
    for (let i = 1; i <= length; i++) {
      let first = Number(list.readBigInt64LE(i * 8));
      if (first === 0) continue;
      let pages = 1;
      if (first < 0) {
        must(++i <= length, "a list of free pages ends too early");
        [pages, first] = [-first, Number(list.readBigInt64LE(i * 8))];
      }
      must(first >= 2 && first + pages - 1 <= lastPage, `page ${first} is free and does not exist`);
      must(!this.#used.subarray(first, first + pages).includes(1), `page ${first} is free and in use`);
    }
  }
}

const compareBytes: Compare = (a, b) => a.compare(b);
const compareNumbers: Compare = (a, b) => u64(a, 0) - u64(b, 0);
