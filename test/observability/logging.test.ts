import fs, { openSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { changesOf, createAuditLog } from "../../src/observability/audit.ts";
import { createLogger, logDestination, serializeError } from "../../src/observability/logging.ts";
import { observeErrors } from "../../src/observability/observe-errors.ts";

const capture = (): { lines: string[]; write(line: string): void } => {
  const lines: string[] = [];
  return { lines, write: (line) => void lines.push(line) };
};

t.test("lines are JSON with level names; secrets and texts are redacted, requests are not printed", async (t) => {
  const out = capture();
  const log = createLogger("info", out);
  log.debug("below the level");
  log.info(
    {
      prompt: "SECRET",
      body: { text: "SECRET" },
      a: { headers: { authorization: "SECRET" } },
      req: { url: "SECRET" },
      rows: 3,
    },
    "hello",
  );
  t.equal(out.lines.length, 1);
  t.match(JSON.parse(out.lines[0] ?? ""), {
    level: "info",
    name: "prefixd",
    rows: 3,
    msg: "hello",
    prompt: "[redacted]",
  });
  t.notMatch(out.lines[0], /SECRET/);
});

t.test("errors are logged with stack, code and cause, without what libraries hang on them", async (t) => {
  const out = capture();
  const error = Object.assign(new Error("outer", { cause: new TypeError("inner") }), { code: "E_X", body: "SECRET" });
  createLogger("info", out).error({ err: error });
  t.match(JSON.parse(out.lines[0] ?? ""), {
    level: "error",
    err: { message: "outer", code: "E_X", stack: /outer/, cause: { message: "inner" } },
  });
  t.notMatch(out.lines[0], /SECRET/);
  t.same(serializeError("text"), { type: "string" });
});

t.test("failures of an observed object are reported and still thrown", async (t) => {
  const seen: string[] = [];
  class Store {
    #n = 1;
    async ok(): Promise<number> {
      return this.#n;
    }
    async bad(): Promise<never> {
      throw new Error("down");
    }
  }
  const store = observeErrors(new Store(), (method) => seen.push(method));
  t.equal(await store.ok(), 1);
  await t.rejects(store.bad(), /down/);
  t.same(seen, ["bad"]);
});

t.test("a log whose disk is full drops what does not fit, ends nothing, and goes on when there is room", (t) => {
  const file = join(t.testdir(), "log");
  writeFileSync(file, "");
  const opened = openSync(file, "r+");
  const errors: string[] = [];
  let full = true;
  // As a disk does it: the same file descriptor, refused or not.
  const real = fs.writeSync;
  t.teardown(() => void (fs.writeSync = real));
  fs.writeSync = ((fd: number, data: Buffer) => {
    if (fd === opened && full) throw Object.assign(new Error("ENOSPC"), { code: "ENOSPC" });
    return real(fd, data);
  }) as typeof fs.writeSync;
  const log = createLogger(
    "info",
    logDestination(opened, (error) => errors.push(error.message)),
  );
  const long = "x".repeat(100_000);
  for (let i = 0; i < 20; i++) log.info({ i, long }, "line");
  t.ok(errors.length >= 20, "every line was refused");
  t.ok(errors.includes("a line was dropped"), "only so many wait");
  full = false;
  log.info({ long }, "dropped, but what waits is written");
  log.info("last");
  const lines = readFileSync(file, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { msg: string; i?: number });
  t.same(lines.map(({ i }) => i).slice(0, 10), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], "what waited came in order");
  t.equal(lines.at(-1)?.msg, "last");
  t.end();
});

t.test("audit lines that the file does not take go to the ordinary log", (t) => {
  const out = capture();
  const audit = createAuditLog("/dev/full", createLogger("info", out));
  for (const user of ["ann", "bob"])
    audit.record({ action: "user.create", outcome: "ok", user, key_id: null, address: null, request_id: "r" });
  t.match(
    out.lines.map((line) => JSON.parse(line) as object),
    [
      { level: "error", audit: true, action: "user.create", user: "ann", err: { code: "ENOSPC" } },
      { level: "error", audit: true, action: "user.create", user: "bob" },
    ],
  );
  t.end();
});

t.test("a replica's name is in the lines of both logs", (t) => {
  const out = capture();
  const logger = createLogger("info", out, undefined, "eu-1");
  logger.child({ request_id: "r" }).info("a line");
  const entry = { action: "user.create", outcome: "ok", user: "admin", key_id: null, address: "::1", request_id: "r" };
  createAuditLog("", logger).record(entry);
  const file = join(t.testdir({}), "audit.jsonl");
  createAuditLog(file, logger, undefined, "eu-1").record(entry);
  for (const line of [...out.lines, readFileSync(file, "utf8")]) t.match(JSON.parse(line), { replica: "eu-1" });
  t.equal(out.lines.length, 2);
  t.end();
});

t.test("what a change changed", (t) => {
  const before = { weight: 1, limits: { max_queued: null, max_running: 2 }, shared_with: ["ann", "bob"], note: "same" };
  const after = { weight: 2, limits: { max_queued: 0, max_running: 2 }, shared_with: ["bob", "cat"], note: "same" };
  t.same(changesOf(before, after), {
    weight: { before: 1, after: 2 },
    "limits.max_queued": { before: null, after: 0 },
    shared_with: { added: ["cat"], removed: ["ann"] },
  });
  t.same(changesOf(before, before), {});
  t.same(changesOf({}, { weight: 1, limits: { max_queued: null }, shared_with: ["ann"] }), {
    weight: { before: null, after: 1 },
    shared_with: { added: ["ann"], removed: [] },
  });
  t.end();
});
