import { counted } from "../counted.ts";
import { readAdminKey } from "../key-files.ts";
import { ConfigError } from "../errors.ts";
import { readArguments } from "./arguments.ts";
import { call } from "./http-client.ts";

const USAGE = `Usage: prefixd users COMMAND [--url http://127.0.0.1:8080] [--admin-key-file FILE]

  create USER [--weight N] [--limit NAME=N ...]   NAME: max_running, max_queued, tokens_per_minute, max_prefixes, max_prefix_bytes
  list [--after USER]
  show USER
  usage USER [--from DAY] [--to DAY] [--after ROW]
  usage-of-all [--from DAY] [--to DAY] [--by day|month] [--csv | --after ROW]   --csv: all rows, as CSV
  suspend USER                                    refuses the user's keys and ends running requests; nothing is deleted
  resume USER
  patch USER [--weight N] [--limit NAME=N|none ...]
  remove USER [--keep-usage]                      also removes all keys and prefixes; prints the receipt
  create-key USER [--expires-at TIME]             the answer's "key" is the key; it is not shown again
  delete-key USER KEY_ID

The server is --url, else PREFIXD_URL, else http://127.0.0.1:8080; the admin key is read from the file or PREFIXD_ADMIN_KEY. Prints
the server's JSON, one line a call, indented on a terminal. Exit code 0: done; 1: the server refused or did not answer; 2: bad usage.
`;

const OPTIONS = {
  url: { type: "string" },
  "admin-key-file": { type: "string" },
  weight: { type: "string" },
  limit: { type: "string", multiple: true },
  after: { type: "string" },
  from: { type: "string" },
  to: { type: "string" },
  by: { type: "string" },
  csv: { type: "boolean" },
  "keep-usage": { type: "boolean" },
  "expires-at": { type: "string" },
  help: { type: "boolean", short: "h" },
} as const;

type Values = ReturnType<typeof readArguments<typeof OPTIONS>>["values"];

interface Command {
  readonly operands: number;
  readonly options: readonly (keyof typeof OPTIONS)[];
  request(
    operands: readonly string[],
    values: Values,
  ): { method: string; path: string; body?: object; accept?: string };
}

/** The parameters that are given, as the end of a path. */
function query(parameters: Readonly<Record<string, string | undefined>>): string {
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) if (value !== undefined) given.set(name, value);
  return given.size === 0 ? "" : `?${given.toString()}`;
}

const user = (id: string | undefined): string => `/admin/users/${encodeURIComponent(id ?? "")}`;

const suspension = (id: string | undefined, suspended: boolean): ReturnType<Command["request"]> => ({
  method: "PATCH",
  path: user(id),
  body: { suspended },
});

const COMMANDS: Readonly<Record<string, Command>> = {
  create: {
    operands: 1,
    options: ["weight", "limit"],
    request: ([id], values) => ({ method: "POST", path: "/admin/users", body: { id, ...settingsOf(values) } }),
  },
  list: {
    operands: 0,
    options: ["after"],
    request: (_, { after }) => ({ method: "GET", path: `/admin/users${query({ after })}` }),
  },
  show: { operands: 1, options: [], request: ([id]) => ({ method: "GET", path: user(id) }) },
  usage: {
    operands: 1,
    options: ["from", "to", "after"],
    request: ([id], { from, to, after }) => ({ method: "GET", path: `${user(id)}/usage${query({ from, to, after })}` }),
  },
  "usage-of-all": {
    operands: 0,
    options: ["from", "to", "by", "csv", "after"],
    request: (_, { from, to, by, csv, after }) => ({
      method: "GET",
      path: `/admin/usage${query({ from, to, by, after })}`,
      ...(csv === true ? { accept: "text/csv" } : {}),
    }),
  },
  suspend: { operands: 1, options: [], request: ([id]) => suspension(id, true) },
  resume: { operands: 1, options: [], request: ([id]) => suspension(id, false) },
  patch: {
    operands: 1,
    options: ["weight", "limit"],
    request: ([id], values) => ({ method: "PATCH", path: user(id), body: settingsOf(values) }),
  },
  remove: {
    operands: 1,
    options: ["keep-usage"],
    request: ([id], values) => ({
      method: "DELETE",
      path: `${user(id)}${query({ keep_usage: values["keep-usage"] === true ? "true" : undefined })}`,
    }),
  },
  "create-key": {
    operands: 1,
    options: ["expires-at"],
    request: ([id], values) => ({
      method: "POST",
      path: `${user(id)}/keys`,
      body: values["expires-at"] === undefined ? {} : { expires_at: values["expires-at"] },
    }),
  },
  "delete-key": {
    operands: 2,
    options: [],
    request: ([id, key]) => ({ method: "DELETE", path: `${user(id)}/keys/${encodeURIComponent(key ?? "")}` }),
  },
};

/** `prefixd users`: the admin routes as commands. */
export async function users(args: readonly string[]): Promise<void> {
  const { values, positionals } = readArguments("users", args, OPTIONS, USAGE);
  const [name = "", ...operands] = positionals;
  if (values.help === true) return void process.stdout.write(USAGE);
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (command === undefined)
    throw new ConfigError(name === "" ? "users takes a command" : `users: no such command: ${name}`, USAGE);
  if (operands.length !== command.operands)
    throw new ConfigError(`users ${name} takes ${counted(command.operands, "operand")}`, USAGE);
  for (const option of Object.keys(values)) {
    if (option !== "url" && option !== "admin-key-file" && !command.options.some((known) => known === option))
      throw new ConfigError(`users ${name}: takes no --${option}`);
  }
  const key = readAdminKey(values["admin-key-file"] ?? "", process.env);
  if (key === null) throw new ConfigError("users: give --admin-key-file FILE or PREFIXD_ADMIN_KEY", USAGE);
  const { method, path, body, accept } = command.request(operands, values);
  const headers: Record<string, string> = {
    ...(body === undefined ? {} : { "content-type": "application/json" }),
    ...(accept === undefined ? {} : { accept }),
  };
  const answer = await call(
    values.url,
    path,
    { method, headers, ...(body === undefined ? {} : { body: JSON.stringify(body) }) },
    key,
  );
  if (accept !== undefined) process.stdout.write(answer);
  else if (answer !== "") console.log(process.stdout.isTTY ? JSON.stringify(JSON.parse(answer), null, 2) : answer);
}

function settingsOf(values: Values): object {
  const limits = Object.fromEntries((values.limit ?? []).map(limitOf));
  return {
    ...(values.weight === undefined ? {} : { weight: numberOf("--weight", values.weight) }),
    ...(values.limit === undefined ? {} : { limits }),
  };
}

function limitOf(text: string): [string, number | null] {
  const at = text.indexOf("=");
  if (at < 1) throw new ConfigError(`--limit ${text}: expected NAME=N or NAME=none`);
  const value = text.slice(at + 1);
  return [text.slice(0, at), value === "none" ? null : numberOf("--limit", value)];
}

function numberOf(flag: string, text: string): number {
  if (!/^-?\d+(\.\d+)?$/.test(text)) throw new ConfigError(`${flag} ${text}: expected a number`);
  return Number(text);
}
