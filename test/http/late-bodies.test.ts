/** A key may be deleted, or its user suspended, while the body of a request that it began is still on its way. */
import { connect } from "node:net";
import t from "tap";
import { unauthorized } from "../../src/users/authenticator.ts";
import type { Principal } from "../../src/users/types.ts";
import { userSuspended } from "../../src/users/user-id.ts";
import { ADAPTER, buildTestApp, form, until } from "../support/app.ts";
import { readAll } from "../support/fake-client.ts";
import { trainingService } from "../support/training-store.ts";

const json = (body: object): ReturnType<typeof form> => ({
  payload: Buffer.from(JSON.stringify(body)),
  headers: { "content-type": "application/json" },
});
const FILE = form([
  { field: "purpose", data: "fine-tune" },
  { name: "a.jsonl", data: '{"prompt": "a", "completion": "b"}\n' },
]);

t.test("nothing is done for it then", async (t) => {
  let [asked, refusal] = [0, unauthorized()];
  let isRefused = false;
  const authenticate = async (): Promise<Principal> => {
    asked++;
    if (isRefused) throw refusal;
    return { role: "admin", user: "local", keyId: "k" };
  };
  const { store, training } = trainingService(t);
  const app = await buildTestApp(t, {
    training,
    auth: { keyed: true, authenticate, forget: () => {}, close: () => {} },
  });
  const port = await app.listen();
  /** The answer to a request whose key is refused once half of its body has been sent. */
  const send = async (target: string, { payload, headers }: ReturnType<typeof form>): Promise<string> => {
    [asked, isRefused] = [0, false];
    const socket = connect(port, "127.0.0.1");
    const type = headers["content-type"];
    socket.write(
      `${target} HTTP/1.1\r\nHost: a\r\nContent-Type: ${type}\r\nContent-Length: ${payload.length}\r\nConnection: close\r\n\r\n`,
    );
    const half = payload.length >> 1;
    socket.write(payload.subarray(0, half));
    await until(() => asked > 0);
    isRefused = true;
    socket.write(payload.subarray(half));
    return readAll(socket);
  };
  for (refusal of [unauthorized(), userSuspended()]) {
    const code = new RegExp(`"code":"${refusal.code}"`);
    for (const [target, body] of [
      ["POST /generate", json({ prompt: "a" })],
      ["PUT /prefixes/p", json({ token_ids: [1] })],
      ["PUT /prefixes/p", form(ADAPTER)],
      ["PUT /prefixes/p/adapter", form(ADAPTER)],
      ["POST /admin/users", json({ id: "eve" })],
      ["POST /v1/files", FILE],
    ] as const)
      t.match(await send(target, body), code, `${target}: ${refusal.code}`);
  }
  t.equal(app.engine.submitted.length, 0);
  t.equal(app.registry.entries.size, 0);
  t.equal(await app.users.getUser("eve"), null);
  t.same(await store.listFiles("local", { limit: 9, order: "asc" }), []);
});
