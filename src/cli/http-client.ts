import { ConfigError } from "../config.ts";

/** One request to a running server; `url` absent: PREFIXD_URL, then the default address. Answers the body. Throws ConfigError with what went wrong. */
export async function call(url: string | undefined, path: string, init: RequestInit & { headers?: Record<string, string> }, key: string | undefined): Promise<string> {
  const base = url ?? (process.env["PREFIXD_URL"] || "http://127.0.0.1:8080");
  const headers = { ...init.headers, ...(key === undefined ? {} : { authorization: `Bearer ${key}` }) };
  const response = await fetch(new URL(path, base), { ...init, headers }).catch((error: unknown) => {
    throw new ConfigError(`no server answers at ${base} (${error instanceof Error && error.cause instanceof Error ? error.cause.message : String(error)})`);
  });
  const answer = await response.text();
  if (!response.ok) throw new ConfigError(`the server refused: ${answer}`);
  return answer;
}
