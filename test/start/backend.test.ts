import { join } from "node:path";
import t from "tap";
import { parseConfig, type Config } from "../../src/config.ts";
import { FolderInUseError } from "../../src/lmdb/folder-lock.ts";
import { createLogger } from "../../src/observability/logging.ts";
import { openBackend } from "../../src/start/backend.ts";
import { Resources } from "../../src/start/resources.ts";
import { startRedis } from "../support/redis.ts";
import { lacking } from "../support/requirements.ts";

const logger = createLogger("silent");
const config = (store: string): Config => parseConfig(["--store", store], {}) as Config;

t.test("a folder is one backend's at a time", async (t) => {
  const at = config(`lmdb:${join(t.testdir(), "store")}`);
  const backend = await openBackend(at, logger);
  t.equal(backend.prefixVerifyMs, 0);
  await t.rejects(openBackend(at, logger), FolderInUseError);
  await backend.prefixes.ping();
  await backend.close();
  const again = await openBackend(at, logger);
  await again.close();
});

t.test("a folder that cannot be made", async (t) => {
  const dir = t.testdir({ file: "" });
  await t.rejects(openBackend(config(`lmdb:${join(dir, "file", "store")}`), logger), {
    code: "store_unavailable",
    message: /--store lmdb:.*cannot be created or written to/,
  });
});

t.test(
  "a Redis that refuses the login is no backend, and nothing stays open",
  { skip: lacking("redis-server") },
  async (t) => {
    const redis = await startRedis();
    t.teardown(() => redis.stop());
    const wrong = redis.url.replace("//", "//nobody:wrong@");
    await t.rejects(openBackend(config(wrong), logger), { code: "store_unavailable", message: /WRONGPASS/ });
    t.equal(
      String(await redis.command("CLIENT", "LIST"))
        .trim()
        .split("\n").length,
      1,
      "who asks",
    );
  },
);

t.test("opened resources are released in reverse order, also if a later one fails to open", async (t) => {
  const events: string[] = [];
  const open = async (resources: Resources): Promise<Resources> => {
    for (const name of ["a", "b"]) resources.defer(async () => void events.push(name));
    return resources;
  };
  const resources = await Resources.openAll(open);
  t.same(events, []);
  await resources.release();
  await resources.release();
  t.same(events, ["b", "a"]);
  await t.rejects(
    Resources.openAll(async (more) => {
      await open(more);
      throw new Error("no");
    }),
    { message: "no" },
  );
  t.same(events, ["b", "a", "b", "a"]);
});
