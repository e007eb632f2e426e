import t from "tap";
import { AdminKeys } from "../../../src/users/admin-keys.ts";
import { createAuthenticator } from "../../../src/users/authenticator.ts";
import { ADMIN_KEY, buildTestApp } from "../../support/app.ts";
import { FakeUserStore } from "../../support/fake-user-store.ts";

const NEW_KEY = "another-admin-key-0123456789abcdef0123456";
const PIECE = new Uint8Array(1 << 16);

t.test("a backup ends when its key is withdrawn", async (t) => {
  const adminKeys = new AdminKeys([ADMIN_KEY, NEW_KEY]);
  const auth = createAuthenticator({ store: new FakeUserStore(), adminKeys });
  let made = 0;
  const app = await buildTestApp(t, {
    auth,
    backup: async function* () {
      for (; made < 10_000; made++) yield Promise.resolve(PIECE);
    },
  });
  const port = await app.listen();
  const backUp = (key: string): Promise<Response> =>
    fetch(`http://127.0.0.1:${port}/admin/backup`, { method: "POST", headers: { authorization: `Bearer ${key}` } });
  const response = await backUp(ADMIN_KEY);
  t.equal(response.status, 200);
  const reader = response.body!.getReader();
  t.equal((await reader.read()).done, false);
  adminKeys.replace([NEW_KEY]);
  await t.rejects(async () => {
    while (!(await reader.read()).done);
  }, "cut before the end");
  t.ok(made < 10_000);
  made = 9_999;
  t.equal((await (await backUp(NEW_KEY)).arrayBuffer()).byteLength, PIECE.length, "and another can be made");
});
