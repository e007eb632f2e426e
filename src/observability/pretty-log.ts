import type { DestinationStream } from "pino";
import { oneLine } from "../one-line.ts";
import { logDestination } from "./logging.ts";

/** Fields at fixed places of a line, or without use to a reader at a terminal. */
const PLACED: ReadonlySet<string> = new Set(["level", "time", "name", "replica", "msg", "err"]);
/** SGR codes. */
const COLOURS: Readonly<Record<string, number>> = { fatal: 31, error: 31, warn: 33, info: 32 };
const DIM = 2;

/** Where a server's log goes: standard output, as JSON or for people. */
export function standardOutput(format: "auto" | "json" | "pretty"): DestinationStream {
  const { fd, isTTY = false } = process.stdout;
  const destination = logDestination(fd);
  if (format === "json" || (format === "auto" && !isTTY)) return destination;
  return prettyLines(destination, isTTY && !process.env["NO_COLOR"]);
}

/** Rewrites pino's JSON lines for people: `12:00:01.250 INFO  listening url=http://... model=demo`. */
export function prettyLines(destination: DestinationStream, colours: boolean): DestinationStream {
  return { write: (line) => destination.write(prettyLine(line, colours)) };
}

function prettyLine(line: string, colours: boolean): string {
  let entry: Record<string, unknown>;
  try {
    entry = JSON.parse(line) as Record<string, unknown>;
  } catch {
    return line;
  }
  const colour = (code: number | undefined, text: string): string =>
    colours && code !== undefined ? `\u001b[${code}m${text}\u001b[0m` : text;
  const { level, time, msg = "", err } = entry;
  const label = String(level);
  const fields = Object.entries(entry)
    .filter(([name]) => !PLACED.has(name))
    .map(([name, value]) => `${colour(DIM, `${oneLine(name)}=`)}${shown(value)}`);
  const head = [
    colour(DIM, clockOf(String(time))),
    colour(COLOURS[label], label.toUpperCase().padEnd(5)),
    oneLine(String(msg)),
  ];
  return `${[...head, ...fields].join(" ")}\n${err === undefined ? "" : errorLines(err)}`;
}

/** The local time of day of an ISO time. */
function clockOf(time: string): string {
  const date = new Date(time);
  const part = (value: number, digits = 2): string => String(value).padStart(digits, "0");
  return `${part(date.getHours())}:${part(date.getMinutes())}:${part(date.getSeconds())}.${part(date.getMilliseconds(), 3)}`;
}

/** Words as they are, everything else as JSON. */
const shown = (value: unknown): string =>
  typeof value === "string" && /^[\w./:@+%-]+$/.test(value) ? value : oneLine(JSON.stringify(value) ?? "");

/** A serialised error's stack, and those of its causes. */
function errorLines(error: unknown): string {
  if (typeof error !== "object" || error === null) return "";
  const { stack, message, cause } = error as { stack?: string; message?: string; cause?: unknown };
  const lines = (stack ?? message ?? "").split("\n");
  const text = lines.map((line) => `    ${oneLine(line.trimEnd())}\n`).join("");
  return cause === undefined ? text : `${text}    caused by\n${errorLines(cause)}`;
}
