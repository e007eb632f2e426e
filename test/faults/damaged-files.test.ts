/** A real server with damaged LMDB files: which users are refused, which are still served, and that it recovers. */
import { copyFileSync, readFileSync, truncateSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { userFile } from "../../src/lmdb/prefix-files.ts";
import { ADMIN_KEY, call, generate, INTENT } from "../support/fault-client.ts";
import { adapterForm, runCli, startServerProcess, temporaryFolder } from "../support/server.ts";

const PAGE = 4096;
const folder = temporaryFolder();
t.teardown(() => folder.remove());
const dir = join(folder.path, "store");
const flags = ["--cache-dir", join(folder.path, "cache"), "--store", `lmdb:${dir}`];
const env = { PREFIXD_ADMIN_KEY: ADMIN_KEY };

t.test(
  "a damaged file of prefixes is its user's trouble, one of users ends the start",
  { timeout: 120_000 },
  async (t) => {
    const first = await startServerProcess(flags, env);
    t.teardown(() => first.signal("SIGKILL"));
    await call(first, "POST", "/admin/users", { id: "ann" });
    const ann = String((await call(first, "POST", "/admin/users/ann/keys")).body.key);
    for (const key of [ADMIN_KEY, ann])
      t.equal((await call(first, "PUT", "/prefixes/mine", adapterForm("prefixes/intent"), key)).status, 201);
    first.signal("SIGTERM");
    t.equal(await first.exited, 0);

    const hers = userFile(dir, "ann");
    copyFileSync(hers, `${hers}.backup`);
    truncateSync(hers, 5 * PAGE);
    const server = await startServerProcess(flags, env);
    t.teardown(() => server.signal("SIGKILL"));
    const unavailable = { status: 503, code: "store_unavailable", retryAfter: 5 };
    t.match(await generate(server, "mine", {}, ann), unavailable);
    t.match(await call(server, "PUT", "/prefixes/mine", adapterForm("prefixes/intent"), ann), unavailable);
    t.match(await call(server, "GET", "/prefixes", undefined, ann), unavailable);
    t.equal((await generate(server, "mine")).body.choices?.[0]?.text, INTENT, "another user");
    t.equal((await generate(server, null, {}, ann)).status, 200);
    t.equal((await call(server, "GET", "/health/ready")).status, 200);
    copyFileSync(`${hers}.backup`, hers);
    t.equal(
      (await generate(server, "mine", {}, ann)).body.choices?.[0]?.text,
      INTENT,
      "restored under the running server",
    );
    server.signal("SIGTERM");
    t.equal(await server.exited, 0);

    const users = join(dir, "users", readFileSync(join(dir, "users", "current"), "utf8"), "data.mdb");
    truncateSync(users, 3 * PAGE);
    const refused = runCli(["serve", "--port", "0", ...flags], env);
    t.equal(await refused.exited, 1);
    t.match(
      refused.stderr(),
      /^prefixd: The user store cannot read or write its files\. \([^\n]*data\.mdb is damaged: [^\n]*\)\n$/,
      "one line that says which file and why",
    );
  },
);
