/**
 * Puts prefixes and users with less and less and then more room, in a process of its own, which LMDB's way of reporting a
 * failed write can end. Prints how many went in and how many were refused.
 */
import { spawnSync } from "node:child_process";
import { LmdbTables } from "../../src/lmdb/prefix-tables.ts";
import { LmdbUserTables } from "../../src/lmdb/user-tables.ts";
import { PrefixdError } from "../../src/errors.ts";
import { user } from "../contract/user-store.ts";
import { record } from "../prefixes/records.ts";

const [dir = "", most = "0"] = process.argv.slice(2);
const limitFiles = (bytes: number): void => {
  const { status } = spawnSync("prlimit", ["--pid", String(process.pid), `--fsize=${bytes}:`]);
  if (status !== 0) throw new Error("prlimit failed");
};
const outcome = { stored: 0, refused: 0 };
const attempt = async (action: () => unknown): Promise<void> => {
  try {
    await action();
    outcome.stored++;
  } catch (error) {
    if (!(error instanceof PrefixdError && error.code === "store_full")) throw error;
    outcome.refused++;
  }
};
const prefixes = new LmdbTables({ dir });
const users = new LmdbUserTables({ dir });
// Every page that a transaction ends with is once the first beyond the limit.
for (let bytes = 0, step = 0; bytes <= Number(most); bytes += 4096, step++) {
  limitFiles(bytes);
  await attempt(async () =>
    prefixes.put(await record({ user: `u${step % 3}`, name: `p${step}` }, step, { length: 9 })),
  );
  await attempt(() => users.createUser(user(`u${step}`)));
}
await Promise.all([prefixes.close(), users.close()]);
process.stdout.write(JSON.stringify(outcome));
