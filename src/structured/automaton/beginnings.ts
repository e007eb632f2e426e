import type { Network, Rule } from "./network.ts";

/** A rule that can call itself before it has read a byte, so that reading it need not end; null: there is none. */
export function leftRecursive(net: Network): Rule | null {
  const empty = emptyRules(net);
  const calledFirst = net.rules.map((rule) => rulesBefore(net, rule, empty));
  // Depth-first, without recursion of our own: 1 is on the way, 2 is known to end.
  const seen = new Uint8Array(net.rules.length);
  for (const first of net.rules) {
    const path: { rule: number; next: number }[] = seen[first.id] === 0 ? [{ rule: first.id, next: 0 }] : [];
    while (path.length > 0) {
      const top = path.at(-1)!;
      seen[top.rule] = 1;
      const called = calledFirst[top.rule]![top.next++];
      if (called === undefined) {
        seen[top.rule] = 2;
        path.pop();
      } else if (seen[called] === 1) return net.rules[called]!;
      else if (seen[called] === 0) path.push({ rule: called, next: 0 });
    }
  }
  return null;
}

/** Whether a text of the rule may begin with this byte. */
export function mayBeginWith(net: Network, rule: Rule, byte: number): boolean {
  const empty = emptyRules(net);
  const rules = new Set([rule.id]);
  // The set grows while it is visited.
  for (const id of rules) {
    const first = net.rules[id]!;
    for (const state of reachable(net, first.start, empty)) {
      const edges = net.edges[state]!;
      for (let i = 0; i < edges.length; i += 3) if (byte >= edges[i]! && byte <= edges[i + 1]!) return true;
    }
    for (const called of rulesBefore(net, first, empty)) rules.add(called);
  }
  return false;
}

/** By rule: whether it may read nothing. */
function emptyRules(net: Network): readonly boolean[] {
  const empty = net.rules.map(() => false);
  for (let changed = true; changed; ) {
    changed = false;
    for (const { id, start, end } of net.rules) {
      if (empty[id] === true || !reachable(net, start, empty).has(end)) continue;
      empty[id] = changed = true;
    }
  }
  return empty;
}

/** Rules that a rule may call before it has read a byte. */
function rulesBefore(net: Network, { start }: Rule, empty: readonly boolean[]): number[] {
  const called = new Set<number>();
  for (const state of reachable(net, start, empty))
    for (let i = 0; i < net.calls[state]!.length; i += 2) called.add(net.calls[state]![i]!);
  return [...called];
}

/** States of the same rule that can be reached without reading a byte. */
function reachable(net: Network, start: number, empty: readonly boolean[]): ReadonlySet<number> {
  const states = new Set([start]);
  // The set grows while it is visited.
  for (const state of states) {
    for (const to of net.jumps[state]!) states.add(to);
    const calls = net.calls[state]!;
    for (let i = 0; i < calls.length; i += 2) if (empty[calls[i]!] === true) states.add(calls[i + 1]!);
  }
  return states;
}
