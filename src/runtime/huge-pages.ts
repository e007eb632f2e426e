/**
 * Puts memory that was just filled into pages of 2 MiB on Linux, where a processor otherwise looks up the address of every 4 KiB and
 * prefetches no further. For what is read from end to end at every step and never freed: weights as a session has packed them.
 *
 * Not for memory that is touched here and there (a KV cache): each touch would take 2 MiB.
 */
import { readFileSync } from "node:fs";
import koffi from "koffi";

const HUGE_PAGE = 2n << 20n;
/** Linux 6.1: collapses a range's pages into huge ones now, whether or not its mapping was marked for them. */
const MADV_COLLAPSE = 25;

interface Range {
  readonly start: bigint;
  readonly end: bigint;
}

/** Runs `load` and collapses the pages of private memory that it has mapped and filled. Without huge pages it only runs `load`. */
export function inHugePages<T>(load: () => T): T {
  if (!available()) return load();
  const before = privateMemory();
  const loaded = load();
  for (const range of privateMemory()) {
    for (const { start, end } of without(range, before))
      collapse((start + HUGE_PAGE - 1n) & -HUGE_PAGE, end & -HUGE_PAGE);
  }
  return loaded;
}

/** Linux with transparent huge pages for at least who asks for them. */
function available(): boolean {
  try {
    return (
      process.platform === "linux" &&
      !readFileSync("/sys/kernel/mm/transparent_hugepage/enabled", "utf8").includes("[never]")
    );
  } catch {
    return false;
  }
}

/** Readable, writable, private mappings that belong to no file, by address: the allocator's, but not the stack of the first thread. */
function privateMemory(): readonly Range[] {
  const maps = readFileSync("/proc/self/maps", "utf8");
  return [...maps.matchAll(/^([0-9a-f]+)-([0-9a-f]+) rw-p 0+ 00:00 0 *(?:\[heap\])?$/gm)].map(([, start, end]) => ({
    start: BigInt(`0x${start}`),
    end: BigInt(`0x${end}`),
  }));
}

/** What of a range is in none of `others`, which are in order and do not overlap. */
function without({ start, end }: Range, others: readonly Range[]): Range[] {
  const rest: Range[] = [];
  let from = start;
  for (const other of others) {
    if (other.end <= from || other.start >= end) continue;
    if (other.start > from) rest.push({ start: from, end: other.start });
    from = other.end;
  }
  if (from < end) rest.push({ start: from, end });
  return rest;
}

type Madvise = (address: bigint, length: bigint, advice: number) => number;
let madvise: Madvise | undefined;

/** Page by page: one that is empty is refused, and ends the call. Refusals change nothing: the pages stay as they are. */
function collapse(start: bigint, end: bigint): void {
  madvise ??= koffi.load(null).func("madvise", "int", ["uintptr_t", "size_t", "int"]) as unknown as Madvise;
  for (let page = start; page < end; page += HUGE_PAGE) madvise(page, HUGE_PAGE, MADV_COLLAPSE);
}
