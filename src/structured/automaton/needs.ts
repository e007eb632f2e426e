/** What a text still needs to end its rule, by state: with it a run never enters where it could not end. */
import type { Automaton } from "./automaton.ts";

/** Beyond any limit: no text ends the rule from here. */
export const NEVER = 0x3fff_ffff;

export interface Needs {
  /** By state: the least number of return states that must be on the stack at the same time. */
  readonly depth: Int32Array;
  /**
   * A shortest text of the root rule, among those that need no greater depth anywhere; null: there is none within the
   * limits.
   */
  readonly shortestText: Uint8Array | null;
}

/**
 * @param writable by byte: 1 if a token writes it alone. Other bytes may end up inside a character that cannot be
 * finished.
 * @param limits of depth, and of bytes of the shortest text
 */
export function needsOf(
  automaton: Automaton,
  writable: Uint8Array,
  limits: { readonly depth: number; readonly bytes: number },
): Needs {
  const { isTail, root } = automaton;
  const steps = stepsTo(automaton, writable);
  const depthOf = ({ to, back }: Step, depth: Int32Array): number =>
    back < 0 || isTail[back] === 1 ? depth[to]! : Math.max(1 + depth[to]!, depth[back]!);
  const depth = cheapest(automaton, steps, limits.depth, depthOf).cost;
  const { via } = cheapest(automaton, steps, limits.bytes, (step, bytes) => {
    // Only steps that keep to the least depth.
    if (depthOf(step, depth) > depth[step.from]!) return NEVER;
    return bytes[step.to]! + (step.back < 0 ? Number(step.byte >= 0) : bytes[step.back]!);
  });
  return { depth, shortestText: textFrom(root.start, via, automaton.isEnd) };
}

interface Step {
  readonly from: number;
  /** Target of an edge or a jump, or start of the rule that is called. */
  readonly to: number;
  /** Return state of a call; -1: no call. */
  readonly back: number;
  /** The byte that an edge reads, or one of them; -1: no edge. */
  readonly byte: number;
}

/** By state: the steps that lead to it; calls under their rule's start and under their return state. */
function stepsTo({ size, edges, jumps, calls, classOf, classes }: Automaton, writable: Uint8Array): Step[][] {
  const byteOf = new Int16Array(classes).fill(-1);
  for (let byte = 255; byte >= 0; byte--) if (writable[byte] === 1) byteOf[classOf[byte]!] = byte;
  const steps: Step[][] = Array.from({ length: size }, () => []);
  for (let from = 0; from < size; from++) {
    for (let i = edges.at[from]!; i < edges.at[from + 1]!; i += 3) {
      const byte = byteOf.subarray(edges.items[i], edges.items[i + 1]! + 1).find((one) => one >= 0);
      const to = edges.items[i + 2]!;
      if (byte !== undefined) steps[to]!.push({ from, to, back: -1, byte });
    }
    for (let i = jumps.at[from]!; i < jumps.at[from + 1]!; i++) {
      const to = jumps.items[i]!;
      steps[to]!.push({ from, to, back: -1, byte: -1 });
    }
    for (let i = calls.at[from]!; i < calls.at[from + 1]!; i += 2) {
      const step = { from, to: calls.items[i]!, back: calls.items[i + 1]!, byte: -1 };
      steps[step.to]!.push(step);
      steps[step.back]!.push(step);
    }
  }
  return steps;
}

/**
 * Knuth's generalisation of Dijkstra's algorithm to grammars ("A generalization of Dijkstra's algorithm", 1977): states
 * in the order of their costs, from the ends of rules back.
 * @param costOf of a step, from the costs of the states that it leads to; not less than any of them
 */
function cheapest(
  { size, isEnd }: Automaton,
  steps: readonly (readonly Step[])[],
  limit: number,
  costOf: (step: Step, cost: Int32Array) => number,
): { cost: Int32Array; via: readonly (Step | null)[] } {
  const cost = new Int32Array(size).fill(NEVER);
  const via = new Array<Step | null>(size).fill(null);
  const settled = new Uint8Array(size);
  const byCost: number[][] = [[]];
  for (let state = 0; state < size; state++) {
    if (isEnd[state] === 0) continue;
    cost[state] = 0;
    byCost[0]!.push(state);
  }
  for (let now = 0; now < byCost.length; now++) {
    // Grows meanwhile: some steps cost nothing.
    for (const state of byCost[now] ?? []) {
      if (settled[state] === 1) continue;
      settled[state] = 1;
      for (const step of steps[state]!) {
        const { from, to, back } = step;
        if (settled[to] === 0 || (back >= 0 && settled[back] === 0)) continue;
        const total = costOf(step, cost);
        if (total >= cost[from]! || total > limit) continue;
        cost[from] = total;
        via[from] = step;
        (byCost[total] ??= []).push(from);
      }
    }
    byCost[now] = [];
  }
  return { cost, via };
}

function textFrom(start: number, via: readonly (Step | null)[], isEnd: Uint8Array): Uint8Array | null {
  const text: number[] = [];
  const stack: number[] = [];
  let at = start;
  while (true) {
    if (isEnd[at] === 1) {
      const back = stack.pop();
      if (back === undefined) return Uint8Array.from(text);
      at = back;
      continue;
    }
    const step = via[at];
    if (step === undefined || step === null) return null;
    if (step.byte >= 0) text.push(step.byte);
    if (step.back >= 0) stack.push(step.back);
    at = step.to;
  }
}
