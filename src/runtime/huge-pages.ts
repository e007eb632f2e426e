/**
 * Moves freshly filled memory into 2 MiB pages on Linux. With 4 KiB pages the processor translates one address per page
 * and does not prefetch across them. For memory that is read end to end at every step and never freed: a session's
 * packed weights.
 *
 * Not for sparsely touched memory such as a KV cache: each touch would cost 2 MiB.
 */
import { readFileSync } from "node:fs";
import koffi from "koffi";

const HUGE_PAGE = 2n << 20n;
/** Linux 6.1: collapses a range into huge pages now, whether or not its mapping was marked for them. */
const MADV_COLLAPSE = 25;

interface Range {
  readonly start: bigint;
  readonly end: bigint;
}

/**
 * Runs `load`, then collapses the private memory that it mapped and filled. Where huge pages are unavailable, only runs
 * `load`.
 */
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

/** True on Linux with transparent huge pages set to "always" or "madvise". */
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

/** Readable, writable, private, anonymous mappings by address: the allocator's, without the main thread's stack. */
function privateMemory(): readonly Range[] {
  const maps = readFileSync("/proc/self/maps", "utf8");
  return [...maps.matchAll(/^([0-9a-f]+)-([0-9a-f]+) rw-p 0+ 00:00 0 *(?:\[heap\])?$/gm)].map(([, start, end]) => ({
    start: BigInt(`0x${start}`),
    end: BigInt(`0x${end}`),
  }));
}

/** A range minus `others`, which are sorted and do not overlap. */
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

/** Page by page, because a refused page (an empty one) ends the call. Refused pages stay as they are. */
function collapse(start: bigint, end: bigint): void {
  madvise ??= koffi.load(null).func("madvise", "int", ["uintptr_t", "size_t", "int"]) as unknown as Madvise;
  for (let page = start; page < end; page += HUGE_PAGE) madvise(page, HUGE_PAGE, MADV_COLLAPSE);
}
