import type { Network } from "../automaton/network.ts";
import type { JsonType } from "./keywords.ts";

export const typeOf = (value: unknown): JsonType => {
  if (value === null) return "null";
  if (Array.isArray(value)) return "array";
  if (typeof value === "number") return Number.isInteger(value) ? "integer" : "number";
  return typeof value as "boolean" | "string" | "object";
};

/** Whether a value is of one of these types; a whole number is a number, too. */
export function isOf(value: unknown, types: readonly JsonType[]): boolean {
  const type = typeOf(value);
  return types.includes(type) || (type === "integer" && types.includes("number"));
}

/** Whether all numbers of a value are those that the schema's text has: JSON.parse makes 1e400 infinite, and rounds large whole numbers. */
export function isExact(value: unknown): boolean {
  if (typeof value === "number")
    return Number.isFinite(value) && (!Number.isInteger(value) || Number.isSafeInteger(value));
  return typeof value !== "object" || value === null || Object.values(value).every(isExact);
}

/** Reads a comma or a colon, and at most one space after it: with more, a model could write nothing else for ever. */
export function drawMark(net: Network, from: number, mark: "," | ":"): number {
  const at = net.after(from, mark);
  const to = net.state();
  net.text(at, " ", to);
  net.jump(at, to);
  return to;
}

/** Draws the reading of one of these values. */
export function drawValues(net: Network, values: readonly unknown[], from: number, to: number): void {
  const composite = (value: unknown): boolean => typeof value === "object" && value !== null;
  net.oneOf(
    from,
    values.filter((value) => !composite(value)).map((value) => JSON.stringify(value)),
    to,
  );
  for (const value of values) if (composite(value)) drawComposite(net, value as object, from, to);
}

function drawComposite(net: Network, value: object, from: number, to: number): void {
  const isList = Array.isArray(value);
  let at = net.after(from, isList ? "[" : "{");
  for (const [index, [name, item]] of Object.entries(value).entries()) {
    if (index > 0) at = drawMark(net, at, ",");
    if (!isList) at = drawMark(net, net.after(at, JSON.stringify(name)), ":");
    const next = net.state();
    drawValues(net, [item], at, next);
    at = next;
  }
  net.text(at, isList ? "]" : "}", to);
}
