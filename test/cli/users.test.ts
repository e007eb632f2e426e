import { writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { usageRow } from "../contract/user-store.ts";
import { ADMIN_KEY, buildTestApp } from "../support/app.ts";
import { runCli } from "../support/server.ts";

t.test("prefixd users does what the admin routes do", async (t) => {
  const app = await buildTestApp(t, { keyed: true });
  const url = `http://127.0.0.1:${await app.listen()}`;
  const file = join(t.testdir(), "key");
  writeFileSync(file, `${ADMIN_KEY}\n`, { mode: 0o600 });
  const run = async (...args: string[]): Promise<{ code: number | string; out: string; err: string }> => {
    const cli = runCli(["users", ...args, "--url", url], {
      PREFIXD_ADMIN_KEY: args.includes("--admin-key-file") ? "" : ADMIN_KEY,
    });
    const code = await cli.exited;
    return { code, out: cli.stdout(), err: cli.stderr() };
  };
  const [created, bad, none] = await Promise.all([
    run("create", "ann", "--weight", "2", "--limit", "max_prefixes=3", "--admin-key-file", file),
    run("frobnicate"),
    run("create"),
  ]);
  t.match(JSON.parse(created.out), { id: "ann", weight: 2, limits: { max_prefixes: 3 } });
  t.match(bad, { code: 2, err: /no such command: frobnicate/ });
  t.match(none, { code: 2, err: /takes 1 operand\n/ });
  const { key, key_id } = JSON.parse((await run("create-key", "ann")).out) as { key: string; key_id: string };
  t.equal((await fetch(`${url}/prefixes`, { headers: { authorization: `Bearer ${key}` } })).status, 200);
  t.match(JSON.parse((await run("patch", "ann", "--limit", "max_prefixes=none")).out), {
    limits: { max_prefixes: null },
  });
  t.match(JSON.parse((await run("show", "ann")).out), { id: "ann", keys: [{ key_id }] });
  await app.users.addUsage([usageRow("ann", "p", "2026-01-01"), usageRow("ann", "p", "2026-01-02", 3)]);
  const used = JSON.parse(
    (await run("usage", "ann", "--from", "2026-01-01", "--after", "2026-01-01/=p")).out,
  ) as unknown;
  t.match(used, { totals: { requests: 4 }, usage: [{ day: "2026-01-02", requests: 3 }], next: null });
  t.match(JSON.parse((await run("usage-of-all", "--by", "month")).out), {
    usage: [{ user: "ann", month: "2026-01", prefix: "p", requests: 4 }],
  });
  t.equal(
    (await run("usage-of-all", "--by", "month", "--csv")).out,
    "user,month,prefix,requests,prefix_tokens,prompt_tokens,completion_tokens,queue_seconds,run_seconds\r\nann,2026-01,p,4,8,12,16,2,0.000004\r\n",
  );
  t.same(await run("delete-key", "ann", key_id), { code: 0, out: "", err: "" });
  t.match(JSON.parse((await run("list")).out), { users: [{ id: "ann" }], next: null });
  t.match(JSON.parse((await run("remove", "ann")).out), { user: "ann", removed: { keys: 0 } });
  t.match(await run("show", "ann"), {
    code: 1,
    err: /^prefixd: There is no such user\.\n {2}user_not_found, request \S+\n$/,
  });
});
