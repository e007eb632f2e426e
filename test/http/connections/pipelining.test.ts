/** Requests that a client sends behind one another without waiting: each is seen, counted and, when the client goes, over. */
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import t, { type Test } from "tap";
import { drain } from "../../../src/http/server.ts";
import { ADMIN_KEY, buildTestApp, until, type TestApp } from "../../support/app.ts";

function request(method: string, path: string, body?: object): string {
  const text = body && JSON.stringify(body);
  const entity =
    text === undefined ? "\r\n" : `Content-Type: application/json\r\nContent-Length: ${text.length}\r\n\r\n${text}`;
  return `${method} ${path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${ADMIN_KEY}\r\n${entity}`;
}

/** Never ends by itself, as long as nobody steps the engine. */
const STREAM = request("POST", "/generate", { prompt: "ab", max_new_tokens: 5, stream: true });

async function send(t: Test, app: TestApp, requests: readonly string[]): Promise<Socket> {
  const socket = connect(await app.listen(), "127.0.0.1").on("error", () => undefined);
  t.teardown(() => socket.destroy());
  await once(socket, "connect");
  socket.write(requests.join(""));
  return socket;
}

const accessLines = (app: TestApp): unknown[] =>
  app.logs
    .map((line) => JSON.parse(line) as { msg: string; method: string; route: string })
    .filter(({ msg }) => msg === "request");

t.test("requests behind a stream whose connection is reset appear in both logs, once each", async (t) => {
  const app = await buildTestApp(t, { keyed: true });
  app.engine.stepMs = null;
  const socket = await send(t, app, [
    STREAM,
    request("POST", "/admin/users", { id: "ann" }),
    request("POST", "/admin/users/ann/keys", {}),
    request("DELETE", "/prefixes/none"),
    request("POST", "/admin/users", { id: "" }),
  ]);
  await until(() => app.audits.length === 4);
  t.equal(accessLines(app).length, 0, "none of them has been answered");
  socket.resetAndDestroy();
  await until(() => app.traffic.open === 0 && accessLines(app).length === 5);
  t.match(accessLines(app), [
    { route: "/generate", aborted: true },
    { route: "/admin/users", aborted: true, user: "admin", target: "ann" },
    { route: "/admin/users/:user/keys", aborted: true },
    { route: "/prefixes/:id", code: "prefix_not_found" },
    { route: "/admin/users", code: "invalid_user_id" },
  ]);
  t.match(
    // All are worked on at once.
    app.audits.map(({ action, outcome, target }) => `${action} ${outcome} ${target ?? ""}`).sort(),
    [
      /^key.create ok ann/,
      "prefix.remove prefix_not_found admin/none",
      "user.create invalid_user_id ",
      "user.create ok ann",
    ],
  );
});

t.test("work in progress when the connection closes is in the audit log with its outcome", async (t) => {
  const app = await buildTestApp(t, { keyed: true });
  let go = (): void => undefined;
  const create = app.users.createUser.bind(app.users);
  let called = false;
  app.users.createUser = async (user) => {
    called = true;
    await new Promise<void>((resolve) => (go = resolve));
    return create(user);
  };
  const socket = await send(t, app, [request("POST", "/admin/users", { id: "ann" })]);
  await until(() => called);
  socket.resetAndDestroy();
  await until(() => app.traffic.open === 0);
  t.same(app.audits, [], "not over yet");
  go();
  await until(() => app.audits.length > 0);
  t.match(app.audits, [{ action: "user.create", outcome: "ok", target: "ann" }]);
});

t.test("pipelined streams end with their connection, and a drain does not wait for them", async (t) => {
  const app = await buildTestApp(t);
  Object.assign(app.engine, { stepMs: null, maxQueue: 16 });
  const socket = await send(t, app, new Array<string>(9).fill(STREAM));
  await until(() => app.engine.submitted.length === 9);
  socket.resetAndDestroy();
  await until(() => app.engine.cancelled.length === 9);
  t.equal(app.traffic.open, 0);
  t.equal(accessLines(app).length, 9);
  // Longer than the test may take.
  await drain({ app, generation: app.generation, engine: app.engine }, { delay: Promise.resolve(), graceMs: 60_000 });
});

t.test("a request that arrives in part is audited as aborted, later requests of the connection in full", async (t) => {
  const app = await buildTestApp(t, { keyed: true });
  const whole = request("POST", "/admin/users", { id: "bob" });
  const socket = await send(t, app, [request("POST", "/admin/users", { id: "ann" }), whole.slice(0, -4)]);
  await until(() => app.audits.length === 1);
  socket.resetAndDestroy();
  await until(() => app.audits.length === 2);
  t.match(app.audits, [
    { outcome: "ok", target: "ann" },
    { action: "user.create", outcome: /aborted|invalid_request/ },
  ]);
  t.notOk(app.users.users.has("bob"));
});
