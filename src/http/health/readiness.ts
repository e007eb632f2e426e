import { PrefixdError } from "../../errors.ts";
import type { AppState } from "../app-parts.ts";
import type { Readiness } from "./schema.ts";

const CHECK_MS = 2_000;

/** By name; each throws or rejects if its part does not work. */
export type Checks = Readonly<Record<string, () => void | Promise<void>>>;

/** Asks all parts, for two seconds at most. */
export async function readinessOf(checks: Checks, { phase }: Readonly<AppState>): Promise<Readiness> {
  const outcomes: Record<string, string> = phase !== "serving" ? { server: "shutting down" } : {};
  await Promise.all(Object.entries(checks).map(async ([name, check]) => (outcomes[name] = await outcomeOf(check))));
  const ready = Object.values(outcomes).every((outcome) => outcome === "ok");
  return { status: ready ? "ready" : "unavailable", checks: outcomes };
}

/** Our own errors' details are for clients; others may reveal too much. */
async function outcomeOf(check: () => void | Promise<void>): Promise<string> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<string>((resolve) => {
    timer = setTimeout(() => resolve(`no answer within ${CHECK_MS / 1000} s`), CHECK_MS);
  });
  try {
    return await Promise.race([Promise.resolve(check()).then(() => "ok"), late]);
  } catch (error) {
    return error instanceof PrefixdError ? error.message : "failed";
  } finally {
    clearTimeout(timer);
  }
}
