import { randomBytes } from "node:crypto";

const TIME_DIGITS = 12;

/** Ids of one kind sort by the time at which they were made. */
export function timedId(prefix: "file" | "ftjob", now: number): string {
  return `${prefix}-${now.toString(16).padStart(TIME_DIGITS, "0")}${randomBytes(6).toString("hex")}`;
}

/** Ids within a job sort by number. */
export function numberedId(prefix: "ftevent" | "ftckpt", job: string, number: number): string {
  return `${prefix}-${job.slice(job.indexOf("-") + 1)}-${String(number).padStart(6, "0")}`;
}

/** The UTC day of a Unix time in milliseconds. */
export const dayOf = (now: number): string => new Date(now).toISOString().slice(0, 10);

/** Whether it can be one of ours, and so a part of a path. */
export const isTimedId = (id: string): boolean => /^(file|ftjob)-[0-9a-f]{24}$/.test(id);
