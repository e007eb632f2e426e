import type { Network } from "../automaton/network.ts";
import { escaped, failInvalid } from "./errors.ts";
import { drawMark } from "./literals.ts";
import type { DrawPart } from "./part.ts";
import { drawString } from "./strings.ts";

/** Draws the reading of the objects of a schema: its properties in their order, and none besides. */
export function drawObject(
  net: Network,
  schema: Readonly<Record<string, unknown>>,
  pointer: string,
  part: DrawPart,
  from: number,
  to: number,
): void {
  const { properties, required = [], additionalProperties = true } = schema;
  if (properties !== undefined && (typeof properties !== "object" || properties === null || Array.isArray(properties)))
    failInvalid(`${pointer}/properties`, "must be an object");
  if (!Array.isArray(required) || required.some((name) => typeof name !== "string"))
    failInvalid(`${pointer}/required`, "must be a list of names");
  const named = (properties ?? {}) as Readonly<Record<string, unknown>>;
  const needed = new Set(required as string[]);
  const open = net.after(from, "{");
  const close = net.state();
  net.text(close, "}", to);
  const value = (name: string, at: number, next: number): void =>
    Object.hasOwn(named, name)
      ? part(named[name], `${pointer}/properties/${escaped(name)}`, at, next)
      : part(additionalProperties, `${pointer}/additionalProperties`, at, next);

  const names = [...new Set([...Object.keys(named), ...needed])];
  if (names.length === 0) {
    net.jump(open, close);
    if (properties === undefined && additionalProperties !== false)
      drawMap(net, (at, next) => part(additionalProperties, `${pointer}/additionalProperties`, at, next), open, close);
    return;
  }
  // Before each property something has been written, and a comma comes first, or nothing has.
  let [nothing, something] = [open, net.state()];
  for (const name of names) {
    const begin = net.state();
    const [stillNothing, after] = [net.state(), net.state()];
    net.jump(nothing, begin);
    net.jump(drawMark(net, something, ","), begin);
    value(name, drawMark(net, net.after(begin, JSON.stringify(name)), ":"), after);
    if (!needed.has(name)) {
      net.jump(nothing, stillNothing);
      net.jump(something, after);
    }
    [nothing, something] = [stillNothing, after];
  }
  net.jump(nothing, close);
  net.jump(something, close);
}

/** Any names, each with such a value; one at least. */
function drawMap(net: Network, value: (at: number, next: number) => void, from: number, to: number): void {
  const loop = net.state();
  const begin = net.state();
  const name = net.state();
  net.jump(from, begin);
  drawString(net, {}, "", begin, name);
  value(drawMark(net, name, ":"), loop);
  net.jump(drawMark(net, loop, ","), begin);
  net.jump(loop, to);
}
