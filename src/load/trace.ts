import { readFileSync } from "node:fs";
import Type, { type Static } from "typebox";
import { Compile } from "typebox/compile";
import { fileTrouble } from "../file-trouble.ts";
import { ScenarioError } from "./scenario.ts";

const Line = Type.Object({
  prompt_tokens: Type.Integer({ minimum: 1 }),
  max_new_tokens: Type.Integer({ minimum: 1 }),
  at_s: Type.Optional(Type.Number({ minimum: 0, description: "Seconds from the start" })),
});
export type TraceLine = Static<typeof Line>;

const validator = Compile(Line);

/**
 * Reads requests from a JSONL file, ignoring other fields. If `timed`, every line needs `at_s`, and lines are sorted by
 * it. Throws ScenarioError.
 */
export function readTrace(file: string, timed: boolean): TraceLine[] {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    throw new ScenarioError(`trace ${file}: ${fileTrouble(error)}`);
  }
  const lines = text
    .split("\n")
    .flatMap((line, index) => (line.trim() === "" ? [] : [parseLine(line, `trace ${file}, line ${index + 1}`, timed)]));
  if (lines.length === 0) throw new ScenarioError(`trace ${file}: it has no lines`);
  return timed ? lines.sort((a, b) => a.at_s! - b.at_s!) : lines;
}

function parseLine(line: string, where: string, timed: boolean): TraceLine {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    throw new ScenarioError(`${where}: not JSON`);
  }
  if (!validator.Check(value))
    throw new ScenarioError(`${where}: expected whole numbers prompt_tokens and max_new_tokens`);
  if (timed && value.at_s === undefined)
    throw new ScenarioError(`${where}: at_s is missing, which arrivals by trace need`);
  return value;
}
