import { ConfigError } from "../errors.ts";
import type { PrefixDocument } from "../http/prefixes/schema.ts";
import { printable } from "../one-line.ts";
import { CLIENT_OPTIONS, CLIENT_USAGE, onlyOperand, readArguments, prefixPath, userKey } from "./arguments.ts";
import { callJson } from "./http-client.ts";

const USAGE = `Usage: prefixd share ID [--with USER[,USER...]] [--readable-by USER[,USER...]] [--visibility shared|private]

Sets who else may use one of your prefixes and shows the result; without flags, only shows it. Others refer to it as YOU/ID.

  --with USERS           who may send requests with it
  --readable-by USERS    who may also download it (prefixd pull)
  --visibility shared    every user may send requests with it; private: only the users of the two lists
                         A list replaces the previous one; --with '' empties it. Omitted flags change nothing.
${CLIENT_USAGE}`;

const LISTS = {
  with: { type: "string", multiple: true, mayBeEmpty: true },
  "readable-by": { type: "string", multiple: true, mayBeEmpty: true },
} as const;

/** `prefixd share`: changes what the flags name, then prints how the prefix is shared. */
export async function share(args: readonly string[]): Promise<void> {
  const { values, positionals } = readArguments(
    "share",
    args,
    { ...CLIENT_OPTIONS, ...LISTS, visibility: { type: "string" } },
    USAGE,
  );
  if (values.help === true) return void process.stdout.write(USAGE);
  const id = onlyOperand("share", "id (several users of a list are one word: --with ann,bob)", positionals, USAGE);
  const { visibility } = values;
  if (visibility !== undefined && visibility !== "shared" && visibility !== "private")
    throw new ConfigError(`share: --visibility ${visibility}: expected shared or private`, USAGE);
  const body = {
    ...(visibility === undefined ? {} : { visibility }),
    ...(values.with === undefined ? {} : { shared_with: usersOf(values.with) }),
    ...(values["readable-by"] === undefined ? {} : { readable_by: usersOf(values["readable-by"]) }),
  };
  const change = { method: "PATCH", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const { text, value } = await callJson<PrefixDocument>(
    values.url,
    prefixPath(id),
    Object.keys(body).length === 0 ? {} : change,
    userKey(values["key-file"]),
  );
  process.stdout.write(values.json === true ? `${text}\n` : printable(sharingText(value)));
}

function usersOf(lists: readonly string[]): string[] {
  return lists
    .flatMap((list) => list.split(","))
    .map((user) => user.trim())
    .filter((user) => user !== "");
}

function sharingText({ id, access, visibility, shared_with, readable_by }: PrefixDocument): string {
  if (access !== "owner")
    return `${id}: you may ${access === "read" ? "use and pull it" : "use it"}; only its owner sees who else it is shared with\n`;
  const names = (users: readonly string[]): string => (users.length === 0 ? "nobody else" : users.join(", "));
  return `${id}\n  visibility   ${visibility}\n  used by      ${visibility === "shared" ? "every user" : names([...new Set([...shared_with, ...readable_by])])}\n  readable by  ${names(readable_by)}\n`;
}
