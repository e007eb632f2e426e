import { CLIENT_OPTIONS, CLIENT_USAGE, onlyOperand, readArguments, prefixPath, userKey } from "./arguments.ts";
import { call } from "./http-client.ts";

const USAGE = `Usage: prefixd delete ID

Removes one of your prefixes. Requests running with it end.

${CLIENT_USAGE}`;

/** `prefixd delete`: the server's response is empty, so --json prints nothing. */
export async function deletePrefix(args: readonly string[]): Promise<void> {
  const { values, positionals } = readArguments("delete", args, CLIENT_OPTIONS, USAGE);
  if (values.help === true) return void process.stdout.write(USAGE);
  const id = onlyOperand("delete", "id", positionals, USAGE);
  await call(values.url, prefixPath(id), { method: "DELETE" }, userKey(values["key-file"]));
  if (values.json !== true) console.log(`deleted ${id}`);
}
