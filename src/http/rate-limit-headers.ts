import type { ReachedLimit } from "../errors.ts";

/**
 * Headers of draft-ietf-httpapi-ratelimit-headers for the limit that a request ran into, such as `RateLimit-Policy:
 * "tokens";q=60000;w=60` and `RateLimit: "tokens";r=0;t=5`. Structured fields (RFC 9651): integers only.
 */
export function rateLimitHeaders({
  name,
  quota,
  remaining,
  resetSeconds,
  windowSeconds,
}: ReachedLimit): Record<string, string> {
  const window = windowSeconds === undefined ? "" : `;w=${whole(Math.ceil(windowSeconds))}`;
  return {
    "ratelimit-policy": `"${name}";q=${whole(Math.floor(quota))}${window}`,
    ratelimit: `"${name}";r=${whole(Math.floor(remaining))};t=${whole(Math.ceil(resetSeconds))}`,
  };
}

/** Structured fields allow integers of up to 15 digits. */
const whole = (value: number): number => Math.min(999_999_999_999_999, Math.max(0, value));
