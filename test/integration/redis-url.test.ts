/** `--store` with a Redis URL: what reaches the server, and that no output contains the password. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { eventually } from "../support/fault-client.ts";
import { startRedis } from "../support/redis.ts";
import { lacking } from "../support/requirements.ts";
import { runCli, startServerProcess, temporaryFolder } from "../support/server.ts";

const PASSWORD = "Sesame/p@ss:w#1?%";
const ENCODED = encodeURIComponent(PASSWORD);
const PIECES = /Sesame|p@ss|p%40ss|w#1|w%231/;

/** The command line as shown by ps. */
const commandLine = (pid: number): string => readFileSync(`/proc/${pid}/cmdline`, "latin1");

const folder = temporaryFolder();
t.teardown(() => folder.remove());
const cache = ["--cache-dir", join(folder.path, "cache")];

for (const how of ["tcp", "unix"] as const) {
  t.test(`user, password and database by ${how}`, { skip: lacking("redis-server"), timeout: 120_000 }, async (t) => {
    const socket = join(folder.path, `${how}.sock`);
    const redis = await startRedis("--unixsocket", socket);
    t.teardown(() => redis.stop());
    await redis.command("ACL", "SETUSER", "ann", "on", `>${PASSWORD}`, "~*", "&*", "+@all");
    const at = (password: string): string =>
      how === "tcp" ? `redis://ann:${password}@127.0.0.1:${redis.port}/3` : `unix://ann:${password}@${socket}?db=3`;

    const server = await startServerProcess([...cache, "--store", at(ENCODED)]);
    t.teardown(() => server.signal("SIGKILL"));
    const put = await fetch(`${server.url}/prefixes/mine`, {
      method: "PUT",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ text: "three blind mice" }),
    });
    t.equal(put.status, 201);
    t.equal((await server.json("/generate", { prompt: "a", prefix_id: "mine", max_new_tokens: 1 })).status, 200);
    t.match(await redis.command("INFO", "keyspace"), /^db3:keys=/m);
    t.match(
      await redis.command("CLIENT", "LIST"),
      how === "tcp" ? / db=3 .*user=ann/ : new RegExp(` addr=${socket}:0 .* db=3 .*user=ann`),
    );
    if (lacking("linux") === false)
      t.match(commandLine(server.pid), /--store \w+:\/\/\*\*\*@/, "ps shows the command line without it");

    await redis.kill();
    let ready = "";
    await eventually(async () => {
      const answer = await fetch(`${server.url}/health/ready`);
      ready = await answer.text();
      return answer.status === 503 && server.log.some(({ msg }) => msg === "redis");
    });
    t.match(ready, "The prefix store cannot be reached right now.");
    for (const text of [JSON.stringify(server.log), ready, lacking("linux") === false ? commandLine(server.pid) : ""])
      t.notMatch(text, PIECES);

    await redis.start();
    const wrong = runCli(["serve", "--port", "0", ...cache, "--store", at(`x${ENCODED}`)]);
    t.equal(await wrong.exited, 1);
    t.match(wrong.stderr(), /^prefixd: Redis refuses what --store asks for: WRONGPASS[^\n]*\n$/);
    t.notMatch(wrong.stderr() + wrong.stdout(), PIECES);
  });
}

t.test("a malformed URL ends the start with one line and exit code 2", async (t) => {
  const urls = [
    "redis://127.0.0.1/abc",
    "redis://127.0.0.1/1.5",
    `redis://:${PASSWORD}@127.0.0.1:8110`,
    "redis:///tmp/x.sock",
    "redis://127.0.0.1:0",
    `redis://ann:${ENCODED}@127.0.0.1?db=1`,
    `postgres://ann:${ENCODED}@127.0.0.1`,
  ];
  const cases = urls.flatMap((url): [args: string[], env: Record<string, string>, name: string][] => [
    [["--store", url], {}, "--store"],
    [[], { PREFIXD_STORE: url }, "PREFIXD_STORE"],
  ]);
  for (const [args, env, name] of [...cases, [[urls[2]!], {}, "an argument"] as const]) {
    const start = runCli(["serve", "--port", "0", ...cache, ...args], env);
    t.equal(await start.exited, 2);
    t.match(start.stderr(), new RegExp(`^prefixd: ${name}[^\\n]*\\n$`));
    t.notMatch(start.stderr() + start.stdout(), PIECES);
  }
});
