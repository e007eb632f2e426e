import cors from "@fastify/cors";
import type { TypedApp } from "./app-parts.ts";

/** Headers of answers that a page's script may read. */
const READABLE = ["etag", "location", "ratelimit", "ratelimit-policy", "retry-after", "x-request-id", "x-should-retry"];
/** Seconds for which a browser need not ask again. */
const MAX_AGE = 600;

/**
 * Lets web pages of these origins use every route, with any request header, so that OpenAI's client can send its own.
 * Without credentials: prefixd has no cookies, and a script must have the key that it sends. Answers preflights, which
 * come without a key. Call before the routes, and before keys are checked.
 */
export async function allowOrigins(app: TypedApp, origins: readonly string[]): Promise<void> {
  await app.register(cors, {
    origin: [...origins],
    methods: ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
    exposedHeaders: READABLE,
    maxAge: MAX_AGE,
    // Any other OPTIONS is answered alike, instead of with a text that is no problem document.
    strictPreflight: false,
  });
}
