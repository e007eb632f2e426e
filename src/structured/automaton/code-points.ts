/** Sets of code points: ranges [first, last], ascending, without overlaps. */
export type CodePoints = readonly (readonly [first: number, last: number])[];

const LAST = 0x10ffff;
export const ANY: CodePoints = [[0, LAST]];

export const single = (code: number): CodePoints => [[code, code]];

export function union(...sets: readonly CodePoints[]): CodePoints {
  const ranges = sets.flat().sort((a, b) => a[0] - b[0]);
  const out: [number, number][] = [];
  for (const [first, last] of ranges) {
    const before = out.at(-1);
    if (before !== undefined && first <= before[1] + 1) before[1] = Math.max(before[1], last);
    else out.push([first, last]);
  }
  return out;
}

export function complement(set: CodePoints): CodePoints {
  const out: [number, number][] = [];
  let from = 0;
  for (const [first, last] of union(set)) {
    if (first > from) out.push([from, first - 1]);
    from = last + 1;
  }
  if (from <= LAST) out.push([from, LAST]);
  return out;
}

export function intersection(a: CodePoints, b: CodePoints): CodePoints {
  return complement(union(complement(a), complement(b)));
}

export const has = (set: CodePoints, code: number): boolean =>
  set.some(([first, last]) => code >= first && code <= last);
