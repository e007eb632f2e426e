import { PrefixdError, type ErrorCode } from "../../errors.ts";
import type { AppParts, AppState, TypedApp } from "../app-parts.ts";
import { json, UNREAD_BODY } from "../common-schema.ts";
import { openAiErrors } from "./errors.ts";
import { DEFAULT_LIMIT, endedListOf, listOf, noted, pageOf, trainingOf } from "./files.ts";
import {
  CheckpointsQuery,
  CreateJobBody,
  EventsQuery,
  FineTuningCheckpoints,
  FineTuningEvent,
  FineTuningEvents,
  FineTuningJob,
  FineTuningJobs,
  JOB_EXAMPLE,
  JobParams,
  JobsQuery,
} from "./fine-tuning-schema.ts";
import { JobEventStreams, MAX_STREAMS } from "./job-events.ts";
import { checkpointDocument, eventDocument, jobDocument, parseJob } from "./fine-tuning-shape.ts";

const ALL: ErrorCode[] = ["unauthorized", "training_off", "store_unavailable"];
const ONE: ErrorCode[] = [...ALL, "training_job_not_found"];
const LIST: ErrorCode[] = ["unknown_field", "invalid_parameter"];

/** Training jobs, as OpenAI's clients create and follow them. */
export function fineTuningRoutes(app: TypedApp, parts: AppParts, state: Readonly<AppState>): void {
  const { modelName, shape } = parts;
  const streams = new JobEventStreams(parts, state);
  const tags = ["fine-tuning"];

  app.post(
    "/v1/fine_tuning/jobs",
    {
      config: { access: "user", audit: "training.create" },
      schema: {
        operationId: "createFineTuningJob",
        tags,
        summary: "Train a prefix from an uploaded file, as OpenAI's clients create a fine-tuning job",
        description: "The prefix belongs to you, and can be used as soon as the job has succeeded.",
        body: CreateJobBody,
        response: {
          200: json("The job", FineTuningJob, { example: JOB_EXAMPLE }),
          ...openAiErrors(
            ...ALL,
            ...LIST,
            "invalid_prefix_id",
            "training_file_not_found",
            "training_quota_exceeded",
            "removed",
            "body_too_large",
            "unsupported_media_type",
            "store_full",
          ),
        },
      },
    },
    async (request) => {
      const training = trainingOf(parts);
      const order = parseJob(request.body, { modelName, positions: shape.positions });
      const job = await training.create(request.principal.user, order);
      noted(request, job.id);
      return jobDocument(job, modelName);
    },
  );

  app.get(
    "/v1/fine_tuning/jobs",
    {
      config: { access: "user" },
      schema: {
        operationId: "listFineTuningJobs",
        tags,
        summary: "Your training jobs",
        description: "One page, with ended ones, the newest first.",
        querystring: JobsQuery,
        response: {
          200: json("One page", FineTuningJobs, { example: { object: "list", data: [JOB_EXAMPLE], has_more: false } }),
          ...openAiErrors(...ALL, ...LIST),
        },
      },
    },
    async (request) => {
      const found = await trainingOf(parts).listJobs(request.principal.user, pageOf(request.query));
      return listOf(found, request.query.limit ?? DEFAULT_LIMIT, (job) => jobDocument(job, modelName));
    },
  );

  app.get(
    "/v1/fine_tuning/jobs/:job",
    {
      config: { access: "user" },
      schema: {
        operationId: "getFineTuningJob",
        tags,
        summary: "A training job",
        description: "How far it is, or how it ended.",
        params: JobParams,
        response: { 200: json("The job", FineTuningJob, { example: JOB_EXAMPLE }), ...openAiErrors(...ONE) },
      },
    },
    async (request) => jobDocument(await trainingOf(parts).job(request.principal.user, request.params.job), modelName),
  );

  app.post(
    "/v1/fine_tuning/jobs/:job/cancel",
    {
      config: { access: "user", audit: "training.cancel" },
      schema: {
        operationId: "cancelFineTuningJob",
        tags,
        summary: "Cancel a training job",
        description: "When this returns, nothing is trained or registered any more; checkpoints stay.",
        params: JobParams,
        response: {
          200: json("The job", FineTuningJob, {
            example: { ...JOB_EXAMPLE, status: "cancelled", fine_tuned_model: null },
          }),
          ...openAiErrors(...ONE, ...UNREAD_BODY, "training_job_ended", "store_full"),
        },
      },
    },
    async (request) => {
      const job = await trainingOf(parts).cancel(request.principal.user, request.params.job);
      noted(request, job.id);
      return jobDocument(job, modelName);
    },
  );

  app.get(
    "/v1/fine_tuning/jobs/:job/events",
    {
      config: { access: "user" },
      schema: {
        operationId: "listFineTuningEvents",
        tags,
        summary: "What happened in a training job",
        description: `Steps with their losses, evaluations, bad lines and the end, the newest first. With \`stream\`, server-sent events with a FineTuningJobEvent each, the oldest first, until the job has ended, then \`[DONE]\`; up to ${MAX_STREAMS} streams of a user at a time.`,
        params: JobParams,
        querystring: EventsQuery,
        response: {
          200: {
            description: "One page, or the stream",
            content: {
              "application/json": { schema: FineTuningEvents },
              "text/event-stream": { schema: FineTuningEvent },
            },
          },
          ...openAiErrors(...ONE, ...LIST, "live_busy"),
        },
      },
    },
    async (request, reply) => {
      const { user } = request.principal;
      const { limit, after } = request.query;
      const stream = request.query.stream === "true";
      if (stream && limit !== undefined)
        throw new PrefixdError("invalid_parameter", "A stream has no pages: leave out limit.", { field: "limit" });
      // An answer to HEAD would be one without its stream.
      if (stream && request.method !== "HEAD") {
        await streams.serve(request, reply, trainingOf(parts), { job: request.params.job, after });
        return reply;
      }
      const found = await trainingOf(parts).events(user, request.params.job, pageOf(request.query));
      return listOf(found, request.query.limit ?? DEFAULT_LIMIT, eventDocument);
    },
  );

  app.get(
    "/v1/fine_tuning/jobs/:job/checkpoints",
    {
      config: { access: "user" },
      schema: {
        operationId: "listFineTuningCheckpoints",
        tags,
        summary: "Checkpoints of a training job",
        description: "The last three, each registered as a prefix that can be used while the job runs.",
        params: JobParams,
        querystring: CheckpointsQuery,
        response: { 200: json("One page", FineTuningCheckpoints), ...openAiErrors(...ONE, ...LIST) },
      },
    },
    async (request) => {
      const { job } = request.params;
      const found = await trainingOf(parts).checkpoints(request.principal.user, job, pageOf(request.query));
      return endedListOf(found, request.query.limit ?? DEFAULT_LIMIT, (one) => checkpointDocument(job, one));
    },
  );
}
