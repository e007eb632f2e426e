/** One server per LMDB folder: a second one exits with a one-line error; a killed one leaves nothing to clean up. */
import { readFileSync, symlinkSync } from "node:fs";
import { join, relative } from "node:path";
import t from "tap";
import { ROOT } from "../support/program.ts";
import { runCli, startServerProcess, temporaryFolder } from "../support/server.ts";

t.setTimeout(240_000);

t.test("a second server on a folder is refused", async (t) => {
  const folder = temporaryFolder();
  const cache = ["--cache-dir", join(folder.path, "cache")];
  const dir = join(folder.path, "store");
  symlinkSync(dir, join(folder.path, "link"));
  const first = await startServerProcess([...cache, "--store", `lmdb:${dir}`]);
  t.teardown(() => {
    first.signal("SIGKILL");
    folder.remove();
  });
  const put = await fetch(`${first.url}/prefixes/kept`, {
    method: "PUT",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ text: "three blind mice" }),
  });
  t.equal(put.status, 201);

  const paths = [dir, join(folder.path, "link"), relative(ROOT, dir), `${folder.path}/./store/`];
  const seconds = await Promise.all(
    paths.map(async (path) => {
      const second = runCli(["serve", "--port", "0", ...cache, "--store", `lmdb:${path}`]);
      return { path, code: await second.exited, stderr: second.stderr(), stdout: second.stdout() };
    }),
  );
  for (const { path, code, stderr, stdout } of seconds) {
    t.equal(code, 1, path);
    t.equal(
      stderr,
      `prefixd: ${path} is in use by process ${first.pid}: one server per folder. Servers that share users and prefixes need a Redis\n`,
    );
    t.equal(stdout, "", "it ends before the model is loaded");
  }
  t.equal(
    (await first.json("/generate", { prompt: "a", prefix_id: "kept", max_new_tokens: 1 })).status,
    200,
    "the first goes on",
  );

  const doctor = runCli(["doctor", "--store", `lmdb:${dir}`]);
  t.equal(await doctor.exited, 0);
  t.match(doctor.stdout(), `Warning: ${dir} is in use by process ${first.pid}: another server cannot start on it.`);

  first.signal("SIGKILL");
  await first.exited;
  const third = await startServerProcess([...cache, "--store", `lmdb:${dir}`]);
  t.teardown(() => third.signal("SIGKILL"));
  t.equal(
    (await third.json("/generate", { prompt: "a", prefix_id: "kept", max_new_tokens: 1 })).status,
    200,
    "it starts at once, with what was stored",
  );

  third.signal("SIGTERM");
  t.equal(await third.exited, 0);
  t.equal(readFileSync(join(dir, "server.lock"), "utf8"), "", "one that has ended is named nowhere");
});
