import type { Network } from "../automaton/network.ts";
import { countsOf } from "./counts.ts";
import { failInvalid, failUnsupported } from "./errors.ts";
import { drawMark } from "./literals.ts";
import type { DrawPart } from "./part.ts";

/** Draws the reading of the arrays of a schema. */
export function drawArray(
  net: Network,
  schema: Readonly<Record<string, unknown>>,
  pointer: string,
  part: DrawPart,
  from: number,
  to: number,
): void {
  const { items = true, prefixItems = [], uniqueItems = false } = schema;
  if (Array.isArray(items)) failUnsupported(`${pointer}/items`, "must be one schema; for several use prefixItems");
  if (!Array.isArray(prefixItems)) failInvalid(`${pointer}/prefixItems`, "must be a list");
  if (uniqueItems !== false) failUnsupported(`${pointer}/uniqueItems`, "true is not supported");
  const { min, max } = countsOf(schema, ["minItems", "maxItems"], pointer);
  const close = net.state();
  net.text(close, "]", to);
  const item = (index: number, at: number, next: number): void =>
    index < prefixItems.length
      ? part(prefixItems[index], `${pointer}/prefixItems/${index}`, at, next)
      : part(items, `${pointer}/items`, at, next);
  const least = Math.max(min, Math.min(prefixItems.length, max));
  const counted = max === Infinity ? least : max;
  let at = net.after(from, "[");
  for (let index = 0; index < counted; index++) {
    if (index >= least) net.jump(at, close);
    const next = net.state();
    item(index, index === 0 ? at : drawMark(net, at, ","), next);
    at = next;
  }
  net.jump(at, close);
  if (max !== Infinity || items === false) return;
  // From the counted ones on, as many as wanted.
  const loop = net.state();
  if (counted === 0) item(0, at, loop);
  else net.jump(at, loop);
  item(Math.max(1, counted), drawMark(net, loop, ","), loop);
  net.jump(loop, close);
}
