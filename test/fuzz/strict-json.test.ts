/** The strict JSON parser against JSON.parse. */
import fc from "fast-check";
import t from "tap";
import {
  decodeUtf8,
  isJsonObject,
  JsonDefect,
  parseStrictJson,
  type JsonValue,
} from "../../src/formats/strict-json.ts";
import { anyText } from "./support/from-schema.ts";
import { holds } from "./support/runs.ts";

const LIMITS = { maxDepth: 20, maxValues: 500 };
/** What is refused although JSON.parse takes it. */
const STRICTER = /occurs twice|nested deeper|JSON values|out of range|too many digits/;

function read(text: string): { value: JsonValue } | { defect: string } {
  try {
    return { value: parseStrictJson(text, LIMITS) };
  } catch (error) {
    if (error instanceof JsonDefect) return { defect: error.message };
    throw error;
  }
}

/** Whether a Map tree is what JSON.parse makes of the same text; keys are compared by name and order does not matter. */
function isSame(strict: JsonValue, plain: unknown): boolean {
  if (isJsonObject(strict)) {
    if (typeof plain !== "object" || plain === null || Array.isArray(plain)) return false;
    return (
      strict.size === Object.keys(plain).length &&
      [...strict].every(
        ([key, value]) => Object.hasOwn(plain, key) && isSame(value, (plain as Record<string, unknown>)[key]),
      )
    );
  }
  if (Array.isArray(strict))
    return (
      Array.isArray(plain) &&
      strict.length === plain.length &&
      strict.every((value: JsonValue, i) => isSame(value, plain[i]))
    );
  return Object.is(strict, plain);
}

const json = fc.jsonValue({ maxDepth: 6, stringUnit: "binary" });
const space = fc.constantFrom(0, 1, "\t", " \n\r");

t.test("what JSON.stringify writes is read as it was", async (t) => {
  await holds(
    t,
    400,
    fc.property(fc.oneof(json, anyText), space, (value, indent) => {
      const text = JSON.stringify(value, null, indent);
      const found = read(text);
      return "value" in found && isSame(found.value, JSON.parse(text));
    }),
  );
});

t.test(
  "any text is read as JSON.parse reads it, or refused; what only we refuse is refused for a reason of ours",
  async (t) => {
    const fragment = fc.constantFrom(
      "{",
      "}",
      "[",
      "]",
      ",",
      ":",
      '"',
      '"a"',
      '"a":',
      "\\",
      "\\u",
      "\\ud800",
      "\\u0000",
      "0",
      "-",
      "1e9",
      "1e999",
      "-0",
      "0.1",
      "01",
      "1".repeat(70),
      "true",
      "nul",
      "null",
      " ",
      "\u00a0",
      "\ufeff",
      "\u2028",
      "\u0001",
      '"__proto__":1',
    );
    const broken = fc.tuple(json, fc.nat(), fragment, fc.boolean()).map(([value, at, piece, over]) => {
      const text = JSON.stringify(value);
      const place = at % (text.length + 1);
      return text.slice(0, place) + piece + text.slice(over ? place + 1 : place);
    });
    const deep = fc
      .tuple(fc.constantFrom("[", '{"a":'), fc.nat({ max: 30_000 }))
      .map(([open, depth]) => open.repeat(depth));
    const text = fc.oneof(
      { weight: 4, arbitrary: broken },
      { weight: 3, arbitrary: fc.array(fragment, { maxLength: 12 }).map((all) => all.join("")) },
      { weight: 1, arbitrary: anyText },
      { weight: 1, arbitrary: deep },
    );
    await holds(
      t,
      1000,
      fc.property(text, (given) => {
        const found = read(given);
        let plain: { value: unknown } | null;
        try {
          plain = { value: JSON.parse(given) };
        } catch {
          plain = null;
        }
        if ("value" in found) return plain !== null && isSame(found.value, plain.value);
        return plain === null || STRICTER.test(found.defect);
      }),
    );
  },
);

t.test("bytes are UTF-8 or refused", async (t) => {
  await holds(
    t,
    200,
    fc.property(
      fc.oneof(
        fc.uint8Array(),
        fc.string({ unit: "binary" }).map((text) => Buffer.from(text)),
      ),
      (bytes) => {
        try {
          return Buffer.from(decodeUtf8(bytes)).equals(bytes);
        } catch (error) {
          return error instanceof JsonDefect && !Buffer.from(Buffer.from(bytes).toString()).equals(bytes);
        }
      },
    ),
  );
});
