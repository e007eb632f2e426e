/** GET /v1/fine_tuning/jobs/{id}/events?stream=true over real sockets. */
import { get, type IncomingMessage } from "node:http";
import t, { type Test } from "tap";
import type { AppParts } from "../../../src/http/app-parts.ts";
import { MAX_STREAMS } from "../../../src/http/v1/job-events.ts";
import type { TrainingStore } from "../../../src/training/jobs/store.ts";
import { unauthorized } from "../../../src/users/authenticator.ts";
import type { Principal } from "../../../src/users/types.ts";
import { userSuspended } from "../../../src/users/user-id.ts";
import { NOW, QUOTA, trainingJob } from "../../contract/training-store.ts";
import { buildTestApp, type TestApp } from "../../support/app.ts";
import { readAll } from "../../support/fake-client.ts";
import { TRAINING_STORES } from "../../support/training-store.ts";

interface Setting {
  readonly app: TestApp;
  readonly store: TrainingStore;
  /** Of a job of the local user's. */
  readonly id: string;
  readonly say: (message: string) => Promise<void>;
  /** Resolves with the headers. */
  readonly stream: (query?: string) => Promise<IncomingMessage>;
}

async function setUpOn(
  t: Test,
  open: (typeof TRAINING_STORES)[number]["open"],
  over: Partial<AppParts> = {},
): Promise<Setting> {
  const { store, training } = await open(t);
  const app = await buildTestApp(t, { training, ...over });
  const { id } = trainingJob("local");
  await store.createJob(trainingJob("local", NOW, { id }), QUOTA, NOW);
  const port = await app.listen();
  return {
    app,
    store,
    id,
    say: (message) => store.addEvent("local", id, { createdAt: NOW, level: "info", message, data: null }),
    stream: (query = "") =>
      new Promise((resolve, reject) => {
        const path = `/v1/fine_tuning/jobs/${id}/events?stream=true${query}`;
        get({ agent: false, host: "127.0.0.1", port, path }, resolve).on("error", reject);
      }),
  };
}

/** What the stream's events say, as they come; the last one is [DONE] or an error's code. */
async function* messagesOf(response: IncomingMessage): AsyncGenerator<string> {
  let text = "";
  for await (const chunk of response.setEncoding("utf8")) {
    text += String(chunk);
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const event = text.slice(0, end);
      text = text.slice(end + 2);
      if (event === "data: [DONE]") yield "[DONE]";
      else if (event.startsWith("data: ")) {
        const { message, error } = JSON.parse(event.slice(6)) as { message?: string; error?: { code: string } };
        yield message ?? error!.code;
      }
    }
  }
}

const rest = async (messages: AsyncGenerator<string>): Promise<string[]> => {
  const found: string[] = [];
  for await (const message of messages) found.push(message);
  return found;
};

for (const { name, skip, open } of TRAINING_STORES)
  void t.test(name, { skip }, async (t) => {
    const setUp = (t: Test, over?: Partial<AppParts>): Promise<Setting> => setUpOn(t, open, over);
    await t.test("events come as they happen, also those after the job's end, and then the end", async (t) => {
      const { app, store, id, say, stream } = await setUp(t);
      for (let i = 0; i < 150; i++) await say(`early ${i}`);
      const response = await stream();
      t.equal(response.headers["content-type"], "text/event-stream; charset=utf-8");
      const messages = messagesOf(response);
      for (let i = 0; i < 150; i++) t.equal((await messages.next()).value, `early ${i}`);
      await say("late");
      t.equal((await messages.next()).value, "late");
      const claim = { user: "local", id, holder: "a" };
      await store.claim(claim);
      await store.end(claim, { status: "succeeded", error: null }, NOW);
      await say("it has succeeded");
      t.same(await rest(messages), ["it has succeeded", "[DONE]"]);
      const page = await app.fastify.inject(`/v1/fine_tuning/jobs/${id}/events?limit=3`);
      const [newest, before] = page.json<{ data: { id: string; message: string }[] }>().data;
      t.equal(newest!.message, "it has succeeded");
      t.same(
        await rest(messagesOf(await stream(`&after=${before!.id}`))),
        ["it has succeeded", "[DONE]"],
        "goes on after",
      );
    });

    await t.test("what cannot be streamed is an ordinary error; HEAD has no stream", async (t) => {
      const { app, id } = await setUp(t);
      const ask = (job: string, query: string) =>
        app.fastify.inject(`/v1/fine_tuning/jobs/${job}/events?stream=true${query}`);
      const missing = await ask("ftjob-x", "");
      t.match([missing.statusCode, missing.json()], [404, { error: { code: "training_job_not_found" } }]);
      const paged = await ask(id, "&limit=5");
      t.match([paged.statusCode, paged.json()], [400, { error: { code: "invalid_parameter", param: "limit" } }]);
      const head = await app.fastify.inject({
        method: "HEAD",
        url: `/v1/fine_tuning/jobs/${id}/events?stream=true`,
      });
      t.equal(head.statusCode, 200);
    });

    await t.test("a user has a few streams at a time; one that is closed makes room", async (t) => {
      const { say, stream } = await setUp(t);
      await say("here");
      const open = await Promise.all(Array.from({ length: MAX_STREAMS }, () => stream()));
      t.teardown(() => open.forEach((response) => response.destroy()));
      for (const response of open) t.equal((await messagesOf(response).next()).value, "here");
      const refused = await stream();
      t.match([refused.statusCode, refused.headers["retry-after"]], [503, "5"]);
      t.match(JSON.parse(await readAll(refused)), { error: { code: "live_busy" } });
      open[0]!.destroy();
      let again = await stream();
      while (again.statusCode === 503) {
        again.resume();
        again = await stream();
      }
      t.equal((await messagesOf(again).next()).value, "here");
      again.destroy();
    });

    await t.test("a stream ends with an error when its user is removed, or the server shuts down", async (t) => {
      const { app, store, say, stream } = await setUp(t);
      await say("here");
      const [one, two] = [messagesOf(await stream()), messagesOf(await stream())];
      for (const messages of [one, two]) t.equal((await messages.next()).value, "here");
      app.state.phase = "refusing";
      t.same(await rest(one), ["draining"]);
      t.same(await rest(two), ["draining"]);
      app.state.phase = "serving";
      const three = messagesOf(await stream());
      t.equal((await three.next()).value, "here");
      await store.deleteUser("local");
      t.same(await rest(three), ["training_job_not_found"]);
    });

    await t.test("a stream ends, with nothing more, once its key is deleted or its user suspended", async (t) => {
      const user: Principal = { role: "user", user: "local", keyId: "k" };
      for (const refusal of [unauthorized(), userSuspended()]) {
        let isRefused = false;
        const authenticate = async (): Promise<Principal> => {
          if (isRefused) throw refusal;
          return user;
        };
        const auth = { keyed: true, authenticate, forget: () => {}, close: () => {} };
        const { say, stream } = await setUp(t, { auth });
        await say("here");
        const messages = messagesOf(await stream());
        t.equal((await messages.next()).value, "here");
        isRefused = true;
        await say("a secret");
        t.same(await rest(messages), [refusal.code]);
      }
    });
  });
