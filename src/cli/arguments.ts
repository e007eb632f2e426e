import { parseArgs, type ParseArgsConfig } from "node:util";
import { ConfigError } from "../errors.ts";
import { readKeyFile } from "../key-files.ts";

type Option = NonNullable<ParseArgsConfig["options"]>[string];
/** `mayBeEmpty`: an empty value is meaningful. */
type Options = Readonly<Record<string, Option & { readonly mayBeEmpty?: true }>>;
type Parsed<T extends Options> = ReturnType<typeof parseArgs<{ options: T; allowPositionals: true; args: string[] }>>;

/**
 * Parses a command's flags and operands: `--flag VALUE` or `--flag=VALUE`, boolean flags without a value. Throws
 * ConfigError, one line that names `command`, with the usage, for a flag that is unknown, lacks its value, has one it
 * should not, or is repeated without being `multiple`.
 */
export function readArguments<T extends Options>(
  command: string,
  args: readonly string[],
  options: T,
  usage: string,
): Pick<Parsed<T>, "values" | "positionals"> {
  // Not strict: Node's messages name no command, and for a repeated flag it silently takes the last value.
  const { tokens, values, positionals } = parseArgs({
    args: [...args],
    options,
    allowPositionals: true,
    strict: false,
    tokens: true,
  });
  const seen = new Set<string>();
  for (const token of tokens) {
    if (token.kind !== "option") continue;
    const { name, rawName, value } = token;
    const fail = (what: string): never => {
      throw new ConfigError(`${command}: ${rawName.replaceAll("\n", " ")}: ${what}`, usage);
    };
    const option = Object.hasOwn(options, name) ? options[name] : undefined;
    if (option === undefined) fail(`no such flag; see prefixd ${command} --help`);
    if (seen.has(name) && option?.multiple !== true) fail("given twice");
    if (option?.type === "boolean" && value !== undefined) fail("takes no value");
    if (
      option?.type === "string" &&
      (value === undefined ||
        (value === "" && option.mayBeEmpty !== true) ||
        (!token.inlineValue && value.startsWith("--")))
    )
      fail("a value is missing");
    seen.add(name);
  }
  return { values, positionals };
}

/** Flags of every command that talks to a running server. */
export const CLIENT_OPTIONS = {
  url: { type: "string" },
  "key-file": { type: "string" },
  json: { type: "boolean" },
  help: { type: "boolean", short: "h" },
} as const;

export const CLIENT_USAGE = `  --url URL             the server; else PREFIXD_URL, else http://127.0.0.1:8080
  --key-file FILE       the user's key; else the variable PREFIXD_KEY
  --json                print the server's JSON, for scripts

Exit code 0: done; 1: the server refused or did not answer, or a file could not be read or written; 2: bad usage.
`;

/**
 * The user's key, from `--key-file` (its first line) or the variable; undefined for a server without keys. Throws
 * ConfigError, which never shows any of the key.
 */
export function userKey(file: string | undefined): string | undefined {
  if (file === undefined) return process.env["PREFIXD_KEY"] || undefined;
  const key = readKeyFile(file, "--key-file");
  if (key === "") throw new ConfigError(`--key-file ${file}: its first line is empty`);
  return key;
}

/** The URL path of a prefix or of something below it. */
export const prefixPath = (id: string, ...parts: readonly string[]): string =>
  ["/prefixes", id, ...parts].map((part, i) => (i === 0 ? part : encodeURIComponent(part))).join("/");

/** A command's only operand. Throws ConfigError. */
export function onlyOperand(command: string, what: string, operands: readonly string[], usage: string): string {
  const [operand] = operands;
  if (operand === undefined || operand === "" || operands.length > 1)
    throw new ConfigError(`${command} takes one ${what}`, usage);
  return operand;
}
