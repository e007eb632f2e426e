/** The order of a revocation's steps, and what its repetition does when one of them has failed. */
import t from "tap";
import { PrefixdError } from "../../src/errors.ts";
import type { ReplicaCommand } from "../../src/replicas/replica-bus.ts";
import { createRevocation } from "../../src/replicas/revocation.ts";
import { apiKey, user } from "../contract/user-store.ts";
import { FakeUserStore } from "../support/fake-user-store.ts";

async function rig() {
  const users = new FakeUserStore();
  await users.createUser(user("ann"));
  const key = apiKey("ann");
  await users.putKey(key);
  const commands: (ReplicaCommand & { keys: number; suspended: boolean })[] = [];
  let failures = 0;
  const revocation = createRevocation({
    users,
    bus: {
      async broadcast(command) {
        if (failures-- > 0) throw new PrefixdError("store_unavailable", "injected", { retryAfter: 1 });
        commands.push({ ...command, keys: users.keys.size, suspended: users.users.get("ann")?.suspended === true });
        return { running: 0, queued: 0, replicas: [] };
      },
    },
  });
  return { users, key, commands, revocation, fail: () => void (failures = 1) };
}

t.test("a key is gone from the store before the replicas hear of it, and again when repeated", async (t) => {
  const { key, commands, revocation, fail } = await rig();
  fail();
  await t.rejects(revocation.deleteKey("ann", key.id), { code: "store_unavailable" });
  t.equal(await revocation.deleteKey("ann", key.id), false, "it is gone");
  t.same(commands, [{ kind: "key", user: "ann", keyId: key.id, keys: 0, suspended: false }], "but they are told");
});

t.test("a user is suspended in the store before the replicas hear of it, and resumed, too", async (t) => {
  const { commands, revocation, fail } = await rig();
  const patch = (suspended?: boolean) =>
    revocation.patchUser("ann", suspended === undefined ? { weight: 2 } : { suspended }, "");
  fail();
  await t.rejects(patch(true), { code: "store_unavailable" });
  t.match(await patch(true), { before: { suspended: true }, user: { suspended: true } });
  await patch();
  await patch(false);
  t.same(
    commands.map(({ kind, suspended }) => [kind, suspended]),
    [
      ["suspend", true],
      ["resume", false],
    ],
    "what changes neither tells nobody",
  );
  await t.rejects(revocation.patchUser("bob", { suspended: true }, ""), { code: "user_not_found" });
  t.equal(commands.length, 2);
});
