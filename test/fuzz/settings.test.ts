/** Settings, sizes and names: whatever is given is read as it was meant or refused in one line. */
import fc from "fast-check";
import t from "tap";
import { describeSettings, parseBytes, parseConfig } from "../../src/config.ts";
import { ConfigError } from "../../src/errors.ts";
import { PrefixdError } from "../../src/errors.ts";
import { parsePrefixId, prefixIdOf } from "../../src/http/prefixes/id.ts";
import { isPrefixName, keyText } from "../../src/prefixes/name.ts";
import { createApiKey } from "../../src/users/api-key.ts";
import { isUserId } from "../../src/users/user-id.ts";
import { anyText } from "./support/from-schema.ts";
import { holds } from "./support/runs.ts";

const UNITS = { "": 1, B: 1, kB: 1e3, MB: 1e6, GB: 1e9, KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3 };

t.test("sizes in any unit and case", async (t) => {
  await holds(
    t,
    150,
    fc.property(
      fc.nat({ max: 1_000_000 }),
      fc.nat({ max: 3 }),
      fc.constantFrom(...(Object.keys(UNITS) as (keyof typeof UNITS)[])),
      fc.boolean(),
      fc.constantFrom("", " "),
      (whole, digits, unit, upper, space) => {
        const number = whole / 10 ** digits;
        const text = `${number.toFixed(digits)}${space}${upper ? unit.toUpperCase() : unit.toLowerCase()}`;
        return parseBytes(text) === Math.floor(Number(number.toFixed(digits)) * UNITS[unit]);
      },
    ),
  );
});

t.test("any other text is a whole number of bytes that begins with its digits, or no size", async (t) => {
  const near = fc
    .array(fc.constantFrom("1", "0", ".", " ", "-", "+", "e", "k", "i", "B", "M", "G", "\u0661", "\n"), {
      maxLength: 6,
    })
    .map((all) => all.join(""));
  await holds(
    t,
    250,
    fc.property(fc.oneof(anyText, near), (text) => {
      const bytes = parseBytes(text);
      return (
        Number.isNaN(bytes) ||
        (Number.isInteger(bytes) && bytes >= Math.floor(parseFloat(text)) && /^\d+(\.\d+)?\s*[a-z]*$/i.test(text))
      );
    }),
  );
});

t.test("flags and variables become settings or a line that names them", async (t) => {
  const settings = describeSettings();
  const flag = fc.constantFrom(
    ...settings.map((setting) => setting.flag),
    ...settings.map((setting) => setting.flag.replace("--", "--no-")),
    "--",
    "--x",
    "x",
  );
  const value = fc.oneof(
    fc.constantFrom(
      "true",
      "0",
      "1",
      "32",
      "-1",
      "1e3",
      "0.5",
      "cpu",
      "auto",
      "127.0.0.1",
      "0.0.0.0",
      "lmdb:x",
      "redis://x",
      "512MiB",
      "",
      "NaN",
      "Infinity",
      "8080\n",
    ),
    anyText.map((text) => text.replaceAll("\0", "")),
  );
  const argument = fc.oneof(
    flag.map((one) => [one]),
    fc.tuple(flag, value).map(([one, text]) => [`${one}=${text}`]),
    fc.tuple(flag, value).map(([...both]) => both),
    value.map((one) => [one]),
  );
  const variables = fc.dictionary(
    fc.constantFrom(
      ...settings.map((setting) => setting.variable).filter((name) => name !== "PREFIXD_ADMIN_KEY_FILE"),
      "PREFIXD_X",
      "PREFIXD___PROTO__",
      "HOME",
    ),
    value,
    { maxKeys: 3 },
  );
  await holds(
    t,
    400,
    fc.property(
      fc.array(argument, { maxLength: 3 }).map((all) => all.flat()),
      variables,
      (args, env) => {
        try {
          const config = parseConfig(args, env);
          return (
            config === "help" || (Object.isFrozen(config) && config.maxBatch >= 1 && Number.isInteger(config.port))
          );
        } catch (error) {
          if (error instanceof ConfigError) return /^[^\n\r]+$/.test(error.message);
          throw error;
        }
      },
    ),
  );
});

const part = fc.oneof(
  anyText,
  fc.stringMatching(/^[A-Za-z0-9._-]{0,130}$/),
  fc.constantFrom(
    "a",
    "A",
    ".",
    "..",
    "-a",
    "admin",
    "local",
    "__proto__",
    "a\n",
    "\u0430",
    "a".repeat(128),
    createApiKey().key,
  ),
);

t.test("an id is one name, or a user's name and one, and reads back as it was written", async (t) => {
  await holds(
    t,
    300,
    fc.property(part, fc.option(part), fc.constantFrom("a", "local", "someone"), (name, owner, user) => {
      const id = owner === null ? name : `${owner}/${name}`;
      try {
        const key = parsePrefixId(id, user);
        return (
          isPrefixName(key.name) &&
          isPrefixName(key.user) &&
          JSON.stringify(parsePrefixId(prefixIdOf(key, user), user)) === JSON.stringify(key) &&
          keyText(key) === `${key.user}/${key.name}`
        );
      } catch (error) {
        return error instanceof PrefixdError && error.code === "invalid_prefix_id";
      }
    }),
  );
});

t.test("names that are taken are harmless in paths, keys and log lines", async (t) => {
  await holds(
    t,
    200,
    fc.property(
      part,
      (name) =>
        (!isPrefixName(name) && !isUserId(name)) ||
        (/^[\w.-]{1,128}$/.test(name) && name !== "." && name !== ".." && encodeURIComponent(name) === name),
    ),
  );
});
