/** With more connections than file descriptors, the server refuses some, serves the rest, and keeps running. */
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { startServerProcess, temporaryFolder, type TestServer } from "../support/server.ts";

/** Limit of open files. Node opens about two hundred modules at once while starting. */
const FILES = 500;
const folder = temporaryFolder();
t.teardown(() => folder.remove());

async function flood(server: TestServer): Promise<Socket[]> {
  const port = Number(new URL(server.url).port);
  return Promise.all(
    Array.from({ length: 2 * FILES }, async () => {
      const socket = connect(port, "127.0.0.1").on("error", () => undefined);
      await new Promise((resolve) => socket.once("connect", resolve).once("close", resolve));
      return socket;
    }),
  );
}

// The default connection limit leaves descriptors for other files; with a limit too high, the system refuses.
for (const flags of [[], ["--max-connections", "100000"]]) {
  t.test(`${2 * FILES} connections, ${FILES} files, ${flags.join(" ") || "no flags"}`, async (t) => {
    const server = await startServerProcess(
      [
        "--cache-dir",
        join(folder.path, "cache"),
        "--store",
        `lmdb:${join(folder.path, `store${flags.length}`)}`,
        "--drain-timeout",
        "0",
        ...flags,
      ],
      {},
      { openFiles: FILES },
    );
    t.teardown(() => server.signal("SIGKILL"));
    const put = (name: string): Promise<Response> =>
      fetch(`${server.url}/prefixes/${name}`, {
        method: "PUT",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ text: "three blind mice" }),
      });
    // A kept connection from before the rush.
    t.equal((await put("before")).status, 201);
    const sockets = await flood(server);
    if (flags.length === 0) t.equal((await put("meanwhile")).status, 201, "the store still has its files");
    for (const socket of sockets) socket.destroy();
    await sleep(100);
    t.equal((await put("after")).status, 201);
    t.equal((await server.json("/generate", { prompt: "a", max_new_tokens: 2, prefix_id: "after" })).status, 200);
    if (flags.length === 0)
      t.ok((await server.metric('prefixd_connections_cut_total{reason="too_many"}')) > FILES, "counted");
    server.signal("SIGTERM");
    t.equal(await server.exited, 0);
  });
}
