import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { hostname } from "node:os";
import { join, relative } from "node:path";
import { createInterface } from "node:readline";
import t, { type Test } from "tap";
import { folderHolder, FolderInUseError, lockFolder } from "../../src/lmdb/folder-lock.ts";
import { bareNode, SOURCES } from "../support/program.ts";
import { lacking } from "../support/requirements.ts";

const SOURCE = new URL("../../src/lmdb/folder-lock.ts", import.meta.url).href;
/** What a process runs once it has the lock; it says when it has. */
const holding = (dir: string, then: string): string =>
  `const { lockFolder } = await import(${JSON.stringify(SOURCE)}); const lock = await lockFolder(${JSON.stringify(dir)}); let more = ""; ${then}; console.log("held", more); setInterval(() => {}, 1000);`;

/** Another process that holds the folder. `then`: what else it does before it says so on a line, to which it may add as `more`. */
async function holder(
  t: Test,
  dir: string,
  then = "",
): Promise<{ child: ChildProcess; line: string; kill: () => Promise<void> }> {
  const [program, args] = bareNode(...SOURCES, "--input-type=module", "-e", holding(dir, then));
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"] });
  const kill = async (): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, "exit");
    child.kill("SIGKILL");
    await exited;
  };
  t.teardown(kill);
  const [line] = (await once(createInterface({ input: child.stdout }), "line")) as [string];
  return { child, line, kill };
}

const inUse = (dir: string, pid: number): { name: string; message: string } => ({
  name: "FolderInUseError",
  message: `${dir} is in use by process ${pid}: one server per folder. Servers that share users and prefixes need a Redis`,
});

t.test("a folder is made, locked and free again", async (t) => {
  const dir = join(mkdtempSync(join(t.testdir(), "x.")), "new", "folder");
  t.equal(folderHolder(dir), null);
  const lock = await lockFolder(dir);
  t.equal(lock.problem, null);
  t.equal(readFileSync(join(dir, "server.lock"), "utf8"), `${process.pid} ${hostname()}\n`);
  t.equal(folderHolder(dir), `process ${process.pid}`);
  await t.rejects(lockFolder(dir), inUse(dir, process.pid), "not twice by one process either");
  lock.release();
  t.equal(folderHolder(dir), null);
  t.equal(readFileSync(join(dir, "server.lock"), "utf8"), "", "nothing names who has gone");
  (await lockFolder(dir)).release();
});

t.test("another process is named, by whatever path the folder is reached", async (t) => {
  const root = mkdtempSync(join(t.testdir(), "x."));
  const dir = join(root, "store");
  const { child } = await holder(t, dir);
  symlinkSync(dir, join(root, "link"));
  const paths = [
    dir,
    join(root, "link"),
    relative(process.cwd(), dir),
    `${root}//./store/`,
    join(root, "..", root.split("/").at(-1)!, "store"),
  ];
  for (const path of paths) {
    await t.rejects(lockFolder(path), inUse(path, child.pid!), path);
    t.equal(folderHolder(path), `process ${child.pid}`);
  }
});

t.test("a bind mount is the same folder", { skip: lacking("mount") }, async (t) => {
  const root = mkdtempSync(join(t.testdir(), "x."));
  const [dir, mount] = [join(root, "store"), join(root, "mount")];
  for (const path of [dir, mount]) mkdirSync(path);
  const { child } = await holder(t, dir);
  t.equal(spawnSync("mount", ["--bind", dir, mount]).status, 0);
  await t.rejects(lockFolder(mount), inUse(mount, child.pid!));
  t.equal(spawnSync("umount", ["-l", mount]).status, 0);
});

t.test("a holder killed with -9 leaves no lock, even if its children live on", async (t) => {
  const dir = mkdtempSync(join(t.testdir(), "x."));
  const children = `const { spawn } = await import("node:child_process"); const child = spawn(process.execPath, ["-e", "setInterval(() => {}, 1000)"], { detached: true, stdio: "inherit" }); child.unref(); more = child.pid`;
  const { kill, line } = await holder(t, dir, children);
  const child = Number(/\d+/.exec(line)?.[0]);
  t.teardown(() => process.kill(child, "SIGKILL"));
  await t.rejects(lockFolder(dir), FolderInUseError);
  await kill();
  t.ok(process.kill(child, 0), "its child lives");
  t.match(readFileSync(join(dir, "server.lock"), "utf8"), /^\d+ /, "its name is still there");
  t.equal(folderHolder(dir), null);
  const lock = await lockFolder(dir);
  t.equal(readFileSync(join(dir, "server.lock"), "utf8"), `${process.pid} ${hostname()}\n`);
  lock.release();
});

t.test("a holder that is just ending, or only looking, is waited for", async (t) => {
  const dir = mkdtempSync(join(t.testdir(), "x."));
  const lock = await lockFolder(dir);
  setTimeout(() => lock.release());
  (await lockFolder(dir)).release();
  t.equal(folderHolder(dir), null);
});

t.test("a lock file that was deleted is no lock", async (t) => {
  const dir = mkdtempSync(join(t.testdir(), "x."));
  const lock = await lockFolder(dir);
  rmSync(join(dir, "server.lock"));
  lock.release();
  const next = await lockFolder(dir);
  await t.rejects(lockFolder(dir), FolderInUseError);
  next.release();
});

t.test("where nothing can be written, the error is the system's", async (t) => {
  const root = t.testdir({ file: "" });
  await t.rejects(lockFolder(join(root, "file")), { code: "EEXIST" });
  await t.rejects(lockFolder(join(root, "file", "below")), { code: "ENOTDIR" });
});
