import type { CodePoints } from "../automaton/code-points.ts";
import { drawCharacter, drawCharacters, isPlain } from "../automaton/json-string.ts";
import type { Network } from "../automaton/network.ts";
import { drawUtf8 } from "../automaton/utf8.ts";
import { tooComplex } from "../limits.ts";
import type { RegexNode } from "./node.ts";

/** A regular expression may have so many characters and sets once its counts are written out. */
const MOST_PARTS = 20_000;

/** How a character stands in the text: as it is, or as inside a JSON string. */
export type Spelling = "plain" | "json";

/** Draws the reading of what a regular expression matches. @throws PrefixdError constraint_too_complex */
export function drawRegex(net: Network, node: RegexNode, from: number, to: number, spelling: Spelling): void {
  if (partsOf(node) > MOST_PARTS)
    throw tooComplex(`The regular expression has more than ${MOST_PARTS} parts once its counts are written out.`);
  draw(net, node, from, to, spelling);
}

function draw(net: Network, node: RegexNode, from: number, to: number, spelling: Spelling): void {
  switch (node.kind) {
    case "set":
      return drawSet(net, node.set, from, to, spelling);
    case "either":
      for (const branch of node.branches) draw(net, branch, from, to, spelling);
      return;
    case "sequence":
      return net.jump(
        node.items.reduce((at, item) => {
          const next = net.state();
          draw(net, item, at, next, spelling);
          return next;
        }, from),
        to,
      );
    case "repeat":
      return drawRepeat(net, node, from, to, spelling);
  }
}

function drawRepeat(
  net: Network,
  { item, min, max }: Extract<RegexNode, { kind: "repeat" }>,
  from: number,
  to: number,
  spelling: Spelling,
): void {
  if (spelling === "json" && item.kind === "set" && isAny(item.set)) {
    const inside = net.state();
    net.jump(from, inside);
    return drawCharacters(net, min, max, inside, to);
  }
  const once = (at: number): number => {
    const next = net.state();
    draw(net, item, at, next, spelling);
    return next;
  };
  let at = from;
  for (let count = 0; count < min; count++) at = once(at);
  if (max === Infinity) {
    const loop = net.state();
    net.jump(at, loop);
    net.jump(once(loop), loop);
    return net.jump(loop, to);
  }
  for (let count = min; count < max; count++) {
    net.jump(at, to);
    at = once(at);
  }
  net.jump(at, to);
}

const isAny = (set: CodePoints): boolean => set.length === 1 && set[0]![0] === 0 && set[0]![1] === 0x10ffff;

/** A set that takes several states is drawn once, as a rule. */
function drawSet(net: Network, set: CodePoints, from: number, to: number, spelling: Spelling): void {
  const [range] = set;
  if (set.length === 1 && range![1] < 0x80 && (spelling === "plain" || isPlain(set)))
    return net.range(from, range![0], range![1], to);
  let rule = net.setRules.get(set);
  if (rule === undefined) {
    rule = net.shared(`${spelling} ${set.join()}`, (start, end) =>
      spelling === "json" ? drawCharacter(net, set, start, end) : drawUtf8(net, set, start, end),
    );
    net.setRules.set(set, rule);
  }
  net.call(from, rule, to);
}

function partsOf(node: RegexNode): number {
  switch (node.kind) {
    case "set":
      return 1;
    case "either":
      return node.branches.reduce((sum, branch) => sum + partsOf(branch), 1);
    case "sequence":
      return node.items.reduce((sum, item) => sum + partsOf(item), 1);
    case "repeat":
      return (1 + partsOf(node.item)) * (node.max === Infinity ? node.min + 1 : node.max);
  }
}
