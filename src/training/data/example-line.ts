/** One line of a training file: `{"prompt": "...", "completion": "..."}`. */
import { decodeUtf8, isJsonObject, JsonDefect, parseStrictJson, type JsonObject } from "../../formats/strict-json.ts";

/** Why a line cannot be used, as a clause: "it has no completion". */
export class LineDefect extends Error {
  override readonly name = "LineDefect";
}

export interface ExampleText {
  readonly prompt: string;
  readonly completion: string;
}

/** Room for fields that are ignored; what is needed has two values on the first level. */
const JSON_LIMITS = { maxDepth: 16, maxValues: 10_000 };
const FORM = '{"prompt": "...", "completion": "..."}';

/**
 * Null for an empty line. Other fields are ignored.
 * @throws LineDefect
 */
export function parseExampleLine(bytes: Uint8Array): ExampleText | null {
  const line = parseLine(bytes);
  if (line === null) return null;
  if (line.has("messages") && !line.has("prompt"))
    throw new LineDefect(`it is a chat line ("messages"); lines of the form ${FORM} are wanted`);
  return { prompt: text(line, "prompt"), completion: text(line, "completion") };
}

function parseLine(bytes: Uint8Array): JsonObject | null {
  if (bytes.includes(0)) throw new LineDefect("it has a NUL byte: the file is binary, or text in UTF-16");
  try {
    const content = decodeUtf8(bytes).replace(/^\uFEFF/, "");
    if (content.trim() === "") return null;
    const json = parseStrictJson(content, JSON_LIMITS);
    if (!isJsonObject(json)) throw new JsonDefect(`it is not a JSON object; lines of the form ${FORM} are wanted`);
    return json;
  } catch (error) {
    if (error instanceof JsonDefect) throw new LineDefect(error.message);
    throw error;
  }
}

function text(line: JsonObject, field: keyof ExampleText): string {
  const value = line.get(field);
  if (value === undefined) throw new LineDefect(`it has no "${field}"; lines of the form ${FORM} are wanted`);
  if (typeof value !== "string") throw new LineDefect(`its "${field}" is not a string`);
  if (value === "") throw new LineDefect(`its "${field}" is empty`);
  if (/\p{Surrogate}/u.test(value)) throw new LineDefect(`its "${field}" has half of a surrogate pair`);
  return value;
}
