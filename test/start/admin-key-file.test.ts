/** Admin keys that change while the server runs. */
import { renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t, { type Test } from "tap";
import { readAdminKeys } from "../../src/key-files.ts";
import type { AuditEntry } from "../../src/observability/audit.ts";
import { createLogger } from "../../src/observability/logging.ts";
import { SecretFilter } from "../../src/observability/secrets.ts";
import { watchAdminKeys } from "../../src/start/admin-key-file.ts";
import { AdminKeys } from "../../src/users/admin-keys.ts";
import { keyLabel } from "../../src/users/api-key.ts";
import { eventually } from "../support/fault-client.ts";

const [OLD, NEW] = ["old-admin-key-0123456789abcdef012345", "new-admin-key-fedcba9876543210fedcba"];

function rig(t: Test, file: string) {
  const secrets = new SecretFilter([OLD]);
  const keys = new AdminKeys(readAdminKeys(file, {}));
  const [lines, audits]: [string[], AuditEntry[]] = [[], []];
  const logger = createLogger("info", { write: (line: string) => void lines.push(line) }, secrets);
  t.teardown(
    watchAdminKeys({
      file,
      keys,
      secrets,
      logger,
      audit: { record: (entry) => void audits.push(entry) },
      intervalMs: 20,
    }),
  );
  const accepted = (): boolean[] => [OLD, NEW].map((key) => keys.idOf(key) !== null);
  return { lines, audits, accepted, secrets };
}

t.test("a new key beside the old one, then alone: no moment without one", async (t) => {
  const file = join(t.testdir({ key: `${OLD}\n` }), "key");
  const { lines, audits, accepted, secrets } = rig(t, file);
  t.same(accepted(), [true, false]);
  writeFileSync(file, `${NEW}\n${OLD}\n`);
  await eventually(async () => audits.length === 1);
  t.same(accepted(), [true, true]);
  t.match(audits[0], {
    action: "admin_keys.change",
    outcome: "ok",
    changes: { admin_keys: { added: [keyLabel(NEW)], removed: [] } },
  });
  writeFileSync(file, `${NEW}\n`);
  await eventually(async () => audits.length === 2);
  t.same(accepted(), [false, true]);
  t.notOk(secrets.passes(`x ${NEW}`), "the new key is redacted, too");
  t.notOk(secrets.passes(`x ${OLD}`), "and still the old one");
  for (const key of [OLD, NEW]) t.notOk((lines.join("") + JSON.stringify(audits)).includes(key));
});

t.test("a file that is bad or gone changes nothing, and is logged; a sound one counts again", async (t) => {
  const file = join(t.testdir({ key: `${OLD}\n` }), "key");
  const { lines, audits, accepted } = rig(t, file);
  let logged = 0;
  const isLogged = (reason: RegExp) => (): Promise<boolean> =>
    Promise.resolve(lines.slice(logged).some((line) => line.includes("stay as they were") && reason.test(line)));
  for (const [spoil, reason] of [
    [() => writeFileSync(file, "short\n"), /must have 32/],
    [() => writeFileSync(file, ""), /must have 32/],
    [() => writeFileSync(file, `${NEW}\nshort\n`), /must have 32/],
    [() => rmSync(file), /there is no such file/],
  ] as const) {
    logged = lines.length;
    spoil();
    await eventually(isLogged(reason));
    t.same(accepted(), [true, false], String(reason));
  }
  t.equal(audits.length, 0);
  writeFileSync(file, `${NEW}\n`);
  await eventually(async () => audits.length === 1);
  t.same(accepted(), [false, true]);
});

t.test("as Kubernetes mounts a secret: a link to another file takes its place", async (t) => {
  const dir = t.testdir({ a: `${OLD}\n`, b: `${NEW}\n` });
  const file = join(dir, "key");
  symlinkSync("a", file);
  const { accepted } = rig(t, file);
  symlinkSync("b", join(dir, "next"));
  renameSync(join(dir, "next"), file);
  await eventually(async () => accepted()[1] === true);
  t.same(accepted(), [false, true]);
});

t.test("a change between the start's reading and the first look is seen", async (t) => {
  const file = join(t.testdir({ key: `${OLD}\n` }), "key");
  const keys = new AdminKeys(readAdminKeys(file, {}));
  writeFileSync(file, `${NEW}\n`);
  const secrets = new SecretFilter([]);
  t.teardown(watchAdminKeys({ file, keys, secrets, logger: createLogger("silent"), audit: { record: () => {} } }));
  t.same([keys.idOf(OLD), keys.idOf(NEW)], [null, keyLabel(NEW)]);
});
