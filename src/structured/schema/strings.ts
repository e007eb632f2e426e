import { drawCharacters } from "../automaton/json-string.ts";
import type { Network } from "../automaton/network.ts";
import { PrefixdError } from "../../errors.ts";
import { drawRegex } from "../regex/draw.ts";
import { parseRegex } from "../regex/parser.ts";
import { countsOf } from "./counts.ts";
import { failInvalid, failUnsupported } from "./errors.ts";
import { FORMATS } from "./formats.ts";
import { BY_TYPE } from "./keywords.ts";

/** Draws the reading of the strings of a schema. */
export function drawString(
  net: Network,
  schema: Readonly<Record<string, unknown>>,
  pointer: string,
  from: number,
  to: number,
): void {
  const inside = net.after(from, '"');
  const end = net.state();
  net.text(end, '"', to);
  const alone = ["pattern", "format"].find((name) => schema[name] !== undefined);
  if (alone === undefined) {
    const { min, max } = countsOf(schema, ["minLength", "maxLength"], pointer);
    return drawCharacters(net, min, max, inside, end);
  }
  const beside = BY_TYPE.string.find((name) => name !== alone && schema[name] !== undefined);
  if (beside !== undefined) failUnsupported(`${pointer}/${beside}`, `${beside} is not supported beside ${alone}`);
  const value = schema[alone];
  if (typeof value !== "string") failInvalid(`${pointer}/${alone}`, "must be a text");
  if (alone === "format") {
    if (!Object.hasOwn(FORMATS, value))
      failUnsupported(`${pointer}/format`, `must be one of ${Object.keys(FORMATS).join(", ")}; for others use pattern`);
    return drawRegex(net, parseRegex(FORMATS[value]!, "whole"), inside, end, "json");
  }
  try {
    drawRegex(net, parseRegex(value, "part"), inside, end, "json");
  } catch (error) {
    if (!(error instanceof PrefixdError)) throw error;
    throw new PrefixdError(error.code, `At ${pointer}/pattern of the schema: ${error.message}`);
  }
}
