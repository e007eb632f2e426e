/** An app with keys, and requests of every kind of caller. */
import type { InjectOptions } from "fastify";
import type { Test } from "tap";
import { CLIENT_DEFAULTS } from "../../src/http/app-parts.ts";
import type { TrainingService } from "../../src/training/jobs/service.ts";
import { createApiKey } from "../../src/users/api-key.ts";
import { NO_LIMITS } from "../../src/users/types.ts";
import { NOW, putFile, trainingJob } from "../contract/training-store.ts";
import { ADMIN_KEY, buildTestApp, type TestApp } from "../support/app.ts";
import { TRAINING_QUOTA, trainingService } from "../support/training-store.ts";

export type Caller = "none" | "bad" | "revoked" | "expired" | "other" | "owner" | "admin";

interface Keyed {
  readonly app: TestApp;
  readonly keys: Readonly<Record<Caller, string | null>>;
  /** Ann's, with `training`. */
  readonly file: string;
  readonly job: string;
  readonly send: (
    caller: Caller,
    method: string,
    url: string,
    payload?: object,
  ) => Promise<Awaited<ReturnType<TestApp["fastify"]["inject"]>>>;
}

/** Users ann and bob, with keys; ann has the prefix `p`. */
export async function keyed(t: Test, { training = false } = {}): Promise<Keyed> {
  const trained = training ? await annsTraining(t) : null;
  const app = await buildTestApp(t, {
    keyed: true,
    training: trained?.training ?? null,
    // An injected request whose answer has no end looks like one whose body has stalled.
    clients: { ...CLIENT_DEFAULTS, receiveMs: 600_000 },
  });
  const now = new Date().toISOString();
  for (const id of ["ann", "bob"])
    await app.users.createUser({ id, weight: 1, limits: NO_LIMITS, createdAt: now, updatedAt: now });
  const add = async (user: string, expiresAt: string | null = null): Promise<string> => {
    const { id, key, hash } = createApiKey();
    await app.users.putKey({ id, user, hash, createdAt: now, expiresAt });
    return key;
  };
  const revoked = await add("ann");
  await app.users.deleteKey("ann", revoked.slice(4, 20));
  const keys = {
    none: null,
    bad: createApiKey().key,
    revoked,
    expired: await add("ann", "2020-01-01T00:00:00.000Z"),
    other: await add("bob"),
    owner: await add("ann"),
    admin: ADMIN_KEY,
  };
  await app.registry.register({ user: "ann", name: "p" }, { kind: "hard", ids: Int32Array.of(1, 2) });
  Object.assign(app.registry.entries.get("ann/p")!.meta, { baseName: "/home/ann/gpt2" });
  const send: Keyed["send"] = (caller, method, url, payload) => {
    const authorization = keys[caller] === null ? {} : { authorization: `Bearer ${keys[caller]}` };
    return app.fastify.inject({
      method: method,
      url,
      headers: { host: "example.org", ...authorization },
      // It has no end.
      payloadAsStream: url === "/admin/live",
      ...(payload === undefined ? {} : { payload }),
    } as InjectOptions);
  };
  return { app, keys, send, file: trained?.file ?? "", job: trained?.job ?? "" };
}

/** Training over a store in which ann has a file and a job. */
async function annsTraining(t: Test): Promise<{ training: TrainingService; file: string; job: string }> {
  const { store, training } = trainingService(t);
  const { id: file } = await putFile(store, "ann", '{"prompt": "a", "completion": "b"}');
  const job = trainingJob("ann", NOW, { trainingFile: file });
  await store.createJob(job, TRAINING_QUOTA, NOW);
  return { training, file, job: job.id };
}
