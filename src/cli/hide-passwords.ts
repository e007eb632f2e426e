import { withoutPasswords } from "../redis/url.ts";

/** Hides passwords from `ps` and /proc, where every local user can read the command line. */
export function hidePasswords(): void {
  const line = [process.argv0, ...process.execArgv, ...process.argv.slice(1)].join(" ");
  if (withoutPasswords(line) !== line) process.title = withoutPasswords(line);
}
