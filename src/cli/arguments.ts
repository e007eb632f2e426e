import { parseArgs, type ParseArgsConfig } from "node:util";
import { ConfigError } from "../config.ts";

type Option = NonNullable<ParseArgsConfig["options"]>[string];
/** `mayBeEmpty`: an empty value says something. */
type Options = Readonly<Record<string, Option & { readonly mayBeEmpty?: true }>>;
type Parsed<T extends Options> = ReturnType<typeof parseArgs<{ options: T; allowPositionals: true; args: string[] }>>;

/**
 * The flags and operands of a client's command: `--flag VALUE` or `--flag=VALUE`, a flag of type boolean without one. `command` names it in
 * errors. Throws ConfigError, in one line, and with the usage, for a flag that is not known, lacks its value, has one too many, or is given twice though it is not `multiple`.
 */
export function readArguments<T extends Options>(
  command: string,
  args: readonly string[],
  options: T,
  usage: string,
): Pick<Parsed<T>, "values" | "positionals"> {
  // Node's own messages name no command, and it takes the last of several.
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

/** What every command has that asks a running server something. */
export const CLIENT_OPTIONS = {
  url: { type: "string" },
  json: { type: "boolean" },
  help: { type: "boolean", short: "h" },
} as const;

export const CLIENT_USAGE = `  --url URL             the server; else PREFIXD_URL, else http://127.0.0.1:8080
  --json                print the server's JSON, for scripts

A key comes from PREFIXD_KEY. Exit code 0: done; 1: the server refused or does not answer, or a file cannot be read or written; 2: bad usage.
`;

/** The user's key; undefined: a server without keys. */
export const userKey = (): string | undefined => process.env["PREFIXD_KEY"] || undefined;

/** The path of a prefix, and of what is below it. */
export const prefixPath = (id: string, ...parts: readonly string[]): string =>
  ["/prefixes", id, ...parts].map((part, i) => (i === 0 ? part : encodeURIComponent(part))).join("/");

/** The only operand of a command. Throws ConfigError. */
export function onlyOperand(command: string, what: string, operands: readonly string[], usage: string): string {
  const [operand] = operands;
  if (operand === undefined || operand === "" || operands.length > 1)
    throw new ConfigError(`${command} takes one ${what}`, usage);
  return operand;
}
