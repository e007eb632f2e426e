import { ConfigError } from "../errors.ts";
import type { PrefixEntry } from "../http/prefixes/schema.ts";
import { printable } from "../one-line.ts";
import { CLIENT_OPTIONS, CLIENT_USAGE, readArguments, userKey } from "./arguments.ts";
import { callJson } from "./http-client.ts";

const USAGE = `Usage: prefixd list [--owner me|others|all]

Lists the prefixes you may use: your own, then those shared with you. ACCESS is what you may do: owner (everything),
read (use and pull), or use (send requests with it).

  --owner me|others|all  whose prefixes (default all)
${CLIENT_USAGE}`;

const PAGE = 1000;

interface Page {
  readonly prefixes: readonly PrefixEntry[];
  readonly next: string | null;
}

/** `prefixd list`: prints a table, or with --json all of the server's pages as one. */
export async function list(args: readonly string[]): Promise<void> {
  const { values, positionals } = readArguments("list", args, { ...CLIENT_OPTIONS, owner: { type: "string" } }, USAGE);
  if (values.help === true) return void process.stdout.write(USAGE);
  if (positionals.length > 0) throw new ConfigError(`list takes no operands, but got ${positionals[0]}`, USAGE);
  const { owner = "all" } = values;
  if (!["me", "others", "all"].includes(owner))
    throw new ConfigError(`list: --owner ${owner}: expected me, others or all`, USAGE);
  const prefixes: PrefixEntry[] = [];
  const query = new URLSearchParams({ owner, limit: String(PAGE) });
  for (;;) {
    const { value } = await callJson<Page>(
      values.url,
      `/prefixes?${query.toString()}`,
      {},
      userKey(values["key-file"]),
    );
    prefixes.push(...value.prefixes);
    if (value.next === null) break;
    query.set("after", value.next);
  }
  // For people: a script reads an empty table.
  if (prefixes.length === 0 && values.json !== true && process.stderr.isTTY)
    process.stderr.write(
      "No prefixes yet. Register one: prefixd push FOLDER, or prefixd train --data FILE --id NAME\n",
    );
  process.stdout.write(
    values.json === true ? `${JSON.stringify({ prefixes, next: null })}\n` : printable(table(prefixes)),
  );
}

const HEAD = ["ID", "KIND", "VIRTUAL TOKENS", "BYTES", "UPDATED", "ACCESS"];

function table(prefixes: readonly PrefixEntry[]): string {
  const rows = [
    HEAD,
    ...prefixes.map((prefix) => [
      prefix.id,
      prefix.kind,
      String(prefix.virtual_tokens),
      String(prefix.bytes),
      prefix.updated_at,
      prefix.access,
    ]),
  ];
  const widths = HEAD.map((_, column) => rows.reduce((widest, row) => Math.max(widest, row[column]!.length), 0));
  return rows
    .map(
      (row) =>
        `${row
          .map((cell, column) => cell.padEnd(widths[column]!))
          .join("  ")
          .trimEnd()}\n`,
    )
    .join("");
}
