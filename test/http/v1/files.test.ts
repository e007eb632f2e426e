/** Files and fine-tuning jobs as routes: forms, pages, errors. What a job does is tested in test/integration. */
import { once } from "node:events";
import { request, type ClientRequest, type IncomingMessage } from "node:http";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import t, { type Test } from "tap";
import { CLIENT_DEFAULTS } from "../../../src/http/app-parts.ts";
import { buildTestApp, form, type TestApp } from "../../support/app.ts";
import { TRAINING_QUOTA, TRAINING_STORES } from "../../support/training-store.ts";

const LINE = '{"prompt": "red blue\\n=>", "completion": " blue red"}\n';
type Answer = Awaited<ReturnType<TestApp["fastify"]["inject"]>>;

interface Setting {
  readonly app: TestApp;
  readonly upload: (data: string | Buffer, more?: Parameters<typeof form>[0]) => Promise<Answer>;
  readonly create: (body: object) => Promise<Answer>;
  /** Files that are being received. */
  readonly incoming: () => Promise<readonly string[]>;
}

type Open = (typeof TRAINING_STORES)[number]["open"];

async function trainingWith(t: Test, open: Open, over: Parameters<typeof buildTestApp>[1] = {}): Promise<Setting> {
  const { training, store, incoming } = await open(t);
  const app = await buildTestApp(t, { training, ...over });
  const post = (url: string, given: { payload: Buffer; headers: object } | { payload: object }): Promise<Answer> =>
    app.fastify.inject({ method: "POST", url, ...given } as never);
  const half = await store.receive("local");
  await half.discard();
  return {
    app,
    upload: (data, more = [{ field: "purpose", data: "fine-tune" }]) =>
      post("/v1/files", form([{ field: "file", name: "dates.jsonl", data }, ...more])),
    create: (body) => post("/v1/fine_tuning/jobs", { payload: { model: "demo", ...body } }),
    incoming,
  };
}

for (const { name, skip, open } of TRAINING_STORES)
  void t.test(name, { skip }, async (t) => {
    const withTraining = (t: Test, over?: Parameters<typeof buildTestApp>[1]): Promise<Setting> =>
      trainingWith(t, open, over);
    await t.test("a file: uploaded, listed, read, deleted", async (t) => {
      const { app, upload, incoming } = await withTraining(t);
      const created = await upload(LINE);
      t.equal(created.statusCode, 200);
      const file = created.json<{ id: string }>();
      t.match(file, {
        id: /^file-[0-9a-f]{24}$/,
        object: "file",
        bytes: LINE.length,
        filename: "dates.jsonl",
        purpose: "fine-tune",
        status: "processed",
      });
      const purposeFirst = await app.fastify.inject({
        method: "POST",
        url: "/v1/files",
        ...form([
          { field: "purpose", data: "fine-tune" },
          { field: "file", name: "b.jsonl", data: LINE },
        ]),
      });
      t.equal(purposeFirst.statusCode, 200);
      const page = (query: string) => app.fastify.inject(`/v1/files?${query}`);
      t.match((await page("limit=1")).json(), { object: "list", data: [{ filename: "b.jsonl" }], has_more: true });
      t.match((await page(`after=${purposeFirst.json<{ id: string }>().id}`)).json(), {
        data: [file],
        has_more: false,
      });
      t.match((await page("order=asc&limit=1")).json(), {
        data: [file],
        first_id: file.id,
        last_id: file.id,
        has_more: true,
      });
      t.same((await page("purpose=batch")).json<{ data: unknown[] }>().data, []);
      t.same((await app.fastify.inject(`/v1/files/${file.id}`)).json(), file);
      t.equal((await app.fastify.inject(`/v1/files/${file.id}/content`)).body, LINE);
      const head = await app.fastify.inject({ method: "HEAD", url: `/v1/files/${file.id}/content` });
      t.equal(head.headers["content-length"], String(LINE.length));
      const deleted = await app.fastify.inject({ method: "DELETE", url: `/v1/files/${file.id}` });
      t.same(deleted.json(), { id: file.id, object: "file", deleted: true });
      for (const path of ["", "/content"])
        t.match((await app.fastify.inject(`/v1/files/${file.id}${path}`)).json(), {
          error: { code: "training_file_not_found" },
        });
      t.match((await app.fastify.inject("/v1/files/..%2F..%2Fetc")).json(), {
        error: { code: "training_file_not_found" },
      });
      t.same(await incoming(), []);
    });

    await t.test("hostile content is refused by line, in bounded memory, and nothing of it stays", async (t) => {
      const { upload, incoming } = await withTraining(t);
      const cases: [string, string | Buffer, RegExp][] = [
        ["nothing", "", /no examples/],
        ["blank lines", "\n\n \n", /no examples/],
        ["NUL", Buffer.from(`${LINE}{"prompt":"\0","completion":"a"}\n`), /line 2: it has a NUL/],
        ["bad UTF-8", Buffer.from([0x22, 0xff, 0xfe, 0x22, 0x0a]), /line 1: it is not UTF-8/i],
        ["nesting", `${"[".repeat(30_000)}\n`, /line 1:/],
        ["a deep field", `{"prompt":"a","completion":"b","x":${"[".repeat(20)}${"]".repeat(20)}}\n`, /line 1:/],
        ["half a character", '{"prompt":"\\ud800","completion":"a"}\n', /surrogate/],
        ["chat", '{"messages":[{"role":"user","content":"a"}]}\n', /it is a chat line/],
        ["no completion", '{"prompt":"a"}\n', /it has no "completion"/],
        ["many bad lines", "{}\n".repeat(20_000), /100 of the first 100 lines are bad, more than 1 %/],
        ["a CSV", "prompt,completion\na,b\n", /2 of the first 2 lines/],
      ];
      for (const [what, data, message] of cases) {
        const answer = await upload(data);
        t.equal(answer.statusCode, 422, what);
        t.match(answer.json(), { error: { code: "training_data_invalid", param: "file", message } }, what);
        t.ok(answer.body.length < 2000, "the error is short");
      }
      t.match((await upload(LINE.repeat(100) + "{}\n")).json(), { object: "file" }, "1 % of bad lines is tolerated");
      t.match((await upload("x".repeat(TRAINING_QUOTA.bytes + 1))).json(), {
        error: { code: "training_quota_exceeded" },
      });
      t.same(await incoming(), []);
    });

    await t.test("forms that are not what they should be", async (t) => {
      const { app, upload, incoming } = await withTraining(t);
      const purpose = (data: string) => [{ field: "purpose", data }];
      const cases: [Promise<Answer>, number, object][] = [
        [upload(LINE, []), 400, { code: "upload_incomplete", param: "purpose" }],
        [upload(LINE, purpose("batch")), 400, { code: "invalid_parameter", param: "purpose" }],
        [upload(LINE, purpose("x".repeat(1000))), 400, { code: "invalid_request" }],
        [upload(LINE, [{ field: "more", data: "x" }]), 400, { code: "invalid_request" }],
        [
          upload(LINE, [{ field: "expires_after[anchor]", data: "created_at" }]),
          400,
          { code: "unsupported_parameter" },
        ],
        [upload(LINE, [{ field: "file", name: "b", data: LINE }]), 400, { code: "invalid_request", param: "file" }],
        [
          app.fastify.inject({ method: "POST", url: "/v1/files", ...form(purpose("fine-tune")) }),
          400,
          { code: "upload_incomplete", param: "file" },
        ],
        [
          app.fastify.inject({ method: "POST", url: "/v1/files", payload: {} }),
          415,
          { code: "unsupported_media_type" },
        ],
      ];
      for (const [answer, status, error] of cases) {
        t.match((await answer).json(), { error });
        t.equal((await answer).statusCode, status, JSON.stringify(error));
      }
      const { payload, headers } = form([{ field: "file", name: "a", data: LINE }, ...purpose("fine-tune")]);
      for (const at of [payload.length - 10, 150, 80]) {
        const cut = { method: "POST", url: "/v1/files", payload: payload.subarray(0, at), headers } as const;
        t.match((await app.fastify.inject(cut)).json(), { error: { code: "invalid_request" } });
      }
      t.same(await incoming(), [], "nothing stays of what was given up");
    });

    await t.test(
      "an upload that stalls, and one whose client leaves, are given up, and nothing of them stays",
      async (t) => {
        const { app, incoming } = await withTraining(t, { clients: { ...CLIENT_DEFAULTS, receiveMs: 200 } });
        const port = await app.listen();
        const { payload, headers } = form([
          { field: "purpose", data: "fine-tune" },
          { field: "file", name: "a", data: LINE.repeat(500) },
        ]);
        const half = (): ClientRequest => {
          const outgoing = request({
            port,
            method: "POST",
            path: "/v1/files",
            headers: { ...headers, "content-length": payload.length },
          });
          outgoing.write(payload.subarray(0, payload.length / 2));
          return outgoing.on("error", () => undefined);
        };
        const stalled = half();
        const [response] = (await once(stalled, "response")) as [IncomingMessage];
        t.equal(response.statusCode, 408);
        const body = await text(response);
        t.match(JSON.parse(body), { error: { code: "upload_stalled" } });
        const leaving = half();
        while ((await incoming()).length === 0) await sleep(5);
        leaving.destroy();
        while ((await incoming()).length > 0) await sleep(5);
        t.pass("both are gone");
      },
    );

    await t.test("a job: created, shown, listed, cancelled", async (t) => {
      const { app, upload, create } = await withTraining(t);
      const file = (await upload(LINE)).json<{ id: string }>().id;
      const created = await create({
        training_file: file,
        suffix: "my dates",
        metadata: { team: "a" },
        seed: 7,
        method: { type: "supervised", supervised: { hyperparameters: { n_epochs: 3, batch_size: "auto" } } },
      });
      t.equal(created.statusCode, 200, created.body);
      const job = created.json<{ id: string }>();
      t.match(job, {
        id: /^ftjob-[0-9a-f]{24}$/,
        object: "fine_tuning.job",
        status: "queued",
        model: "demo",
        training_file: file,
        validation_file: null,
        fine_tuned_model: null,
        error: null,
        trained_tokens: null,
        finished_at: null,
        seed: 7,
        metadata: { team: "a" },
        organization_id: "local",
        hyperparameters: { n_epochs: 3, batch_size: 8, learning_rate_multiplier: 1, num_virtual_tokens: 10 },
      });
      t.same((await app.fastify.inject(`/v1/fine_tuning/jobs/${job.id}`)).json(), job);
      const second = (await create({ training_file: file, prefix_id: "mine" })).json<{ id: string }>();
      t.match((await create({ training_file: file })).json(), { error: { code: "training_quota_exceeded" } });
      t.match((await app.fastify.inject("/v1/fine_tuning/jobs?limit=1")).json(), { data: [second], has_more: true });
      t.match((await app.fastify.inject(`/v1/fine_tuning/jobs?after=${second.id}`)).json(), {
        data: [job],
        has_more: false,
      });
      const cancel = () => app.fastify.inject({ method: "POST", url: `/v1/fine_tuning/jobs/${job.id}/cancel` });
      t.match((await cancel()).json(), { id: job.id, status: "cancelled", trained_tokens: 0 });
      t.match((await cancel()).json(), { error: { code: "training_job_ended" } });
      t.equal((await cancel()).headers["x-should-retry"], "false");
      t.match((await app.fastify.inject(`/v1/fine_tuning/jobs/${job.id}/events`)).json(), {
        object: "list",
        data: [
          {
            object: "fine_tuning.job.event",
            level: "info",
            type: "message",
            message: "The job was cancelled",
            data: {},
          },
          { message: `Created fine-tuning job: ${job.id}` },
        ],
        has_more: false,
      });
      t.same((await app.fastify.inject(`/v1/fine_tuning/jobs/${job.id}/checkpoints`)).json(), {
        object: "list",
        data: [],
        first_id: null,
        last_id: null,
        has_more: false,
      });
      for (const path of ["", "/events", "/checkpoints"])
        t.match((await app.fastify.inject(`/v1/fine_tuning/jobs/ftjob-x${path}`)).json(), {
          error: { code: "training_job_not_found" },
        });
    });

    await t.test("jobs that cannot be", async (t) => {
      const { upload, create } = await withTraining(t);
      const training_file = (await upload(LINE)).json<{ id: string }>().id;
      const hyper = (hyperparameters: object) => ({ hyperparameters });
      const cases: [object, object][] = [
        [
          { training_file: "file-0123456789abcdef01234567" },
          { code: "training_file_not_found", param: "training_file" },
        ],
        [{ validation_file: "../x" }, { code: "training_file_not_found", param: "validation_file" }],
        [{ model: "other" }, { code: "invalid_parameter", param: "model" }],
        [
          { suffix: "a", prefix_id: "b" },
          { code: "invalid_parameter", param: "prefix_id" },
        ],
        [{ prefix_id: "a/b" }, { code: "invalid_prefix_id" }],
        [{ prefix_id: "a".repeat(101) }, { code: "invalid_prefix_id", param: "prefix_id" }],
        [{ suffix: "x".repeat(65) }, { code: "invalid_parameter", param: "suffix" }],
        [{ method: { type: "dpo" } }, { code: "invalid_parameter" }],
        [{ integrations: [] }, { code: "unknown_field", param: "integrations" }],
        [
          { ...hyper({}), method: { type: "supervised" } },
          { code: "invalid_parameter", param: "hyperparameters" },
        ],
        [hyper({ n_epochs: 0 }), { code: "invalid_parameter" }],
        [hyper({ batch_size: 1e9 }), { message: /batch_size must be <= \d+\.$/ }],
        [hyper({ batch_size: "all" }), { message: /batch_size must be "auto" or integer\.$/ }],
        [hyper({ batch_size: true }), { message: /batch_size must be "auto" or integer\.$/ }],
        [{ method: { type: "dpo" } }, { message: 'method.type must be "supervised".' }],
        [hyper({ n_epochs: 1, n_steps: 1 }), { code: "invalid_parameter", param: "n_steps" }],
        [hyper({ num_virtual_tokens: 63 }), { code: "invalid_parameter", param: "num_virtual_tokens" }],
        [hyper({ encoder_hidden_size: 8 }), { code: "invalid_parameter", param: "encoder_hidden_size" }],
        [hyper({ num_candidates: 8 }), { code: "invalid_parameter", param: "num_candidates" }],
        [
          hyper({ peft_type: "TRIGGERS", learning_rate_multiplier: 2 }),
          { code: "invalid_parameter", param: "learning_rate_multiplier" },
        ],
        [
          hyper({ peft_type: "TRIGGERS", prefix_projection: true }),
          { code: "invalid_parameter", param: "prefix_projection" },
        ],
        [
          hyper({ prefix_projection: true, peft_type: "PROMPT_TUNING" }),
          { code: "invalid_parameter", param: "prefix_projection" },
        ],
        [
          { metadata: Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`k${i}`, "v"])) },
          { code: "invalid_parameter", param: "metadata" },
        ],
      ];
      for (const [body, error] of cases)
        t.match((await create({ training_file, ...body })).json(), { error }, JSON.stringify(body).slice(0, 100));
    });
  });

t.test("a server that does not train says so, and clients do not repeat it", async (t) => {
  const { fastify, logs } = await buildTestApp(t);
  for (const [method, url] of [
    ["POST", "/v1/files"],
    ["GET", "/v1/files"],
    ["GET", "/v1/files/file-x/content"],
    ["DELETE", "/v1/files/file-x"],
    ["GET", "/v1/fine_tuning/jobs"],
    ["POST", "/v1/fine_tuning/jobs/ftjob-x/cancel"],
  ] as const) {
    const answer = await fastify.inject({ method, url });
    t.equal(answer.statusCode, 501);
    t.match(answer.json(), { error: { code: "training_off", type: "server_error", message: /--training on/ } });
    t.equal(answer.headers["x-should-retry"], "false");
  }
  t.notMatch(logs.join(""), /request failed/, "which is no failure of the server's");
});
