import type { AppParts, AppState, TypedApp } from "../app-parts.ts";
import { recordAudit } from "../access-log.ts";
import { problems } from "../common-schema.ts";
import { LiveFeed, MAX_READERS } from "./live-feed.ts";
import { LIVE_EXAMPLE, LiveEvent } from "./live-schema.ts";

/** What the server does now, as a stream. */
export function liveRoutes(app: TypedApp, parts: AppParts, state: Readonly<AppState>): void {
  const feed = new LiveFeed(parts, state);
  app.get(
    "/admin/live",
    {
      // An answer to HEAD would be one without its stream.
      exposeHeadRoute: false,
      config: { access: "admin", audit: "live.read" },
      schema: {
        operationId: "watchLive",
        tags: ["operation"],
        summary: "What the server does now: rows of the batch, queue, and totals",
        description: `Server-sent events, at most four a second, until the client closes the connection or the server shuts down. A slow reader misses events. Up to ${MAX_READERS} readers at a time.`,
        response: {
          200: {
            description: "The stream: `data:` holds a LiveEvent; `event: error`, which is the last one, a Problem.",
            content: { "text/event-stream": { schema: LiveEvent, example: LIVE_EXAMPLE } },
          },
          ...problems("unauthorized", "forbidden", "live_busy"),
        },
      },
    },
    async (request, reply) => {
      feed.refuseIfFull();
      recordAudit(request, parts.audit, "ok");
      await feed.serve(request, reply);
    },
  );
}
